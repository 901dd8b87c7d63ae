"""Train a network from Python in one call, alone or on every rank of a job.

    posterior = hs.fit(module, (x, y), method="mean_field", epochs=20, samples=16, output="runs/a")

This does what ``hpcsamp ingest`` and ``hpcsamp train`` do: the arrays are written to a dataset
folder, the arguments become a configuration, and the result is an ordinary run folder.
"""

from __future__ import annotations

import atexit
import copy
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from hpcsamp.data.manifest import Inputs, read_manifest
from hpcsamp.errors import PreemptedError, UsageError
from hpcsamp.grid import init, together
from hpcsamp.ingest.build import build
from hpcsamp.ingest.in_memory import source_of
from hpcsamp.ingest.source import Source
from hpcsamp.models.given import Network, layout_of, offered
from hpcsamp.names import Task
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.prepare import prepare
from hpcsamp.runtime import mpi
from hpcsamp.training.asked import asked_for, completed, modelled, tasks_of
from hpcsamp.training.callbacks import Callback
from hpcsamp.training.loop import Trainer
from hpcsamp.watchdog import STALL
from hpcsamp.watchdog.dog import Watchdog


def fit(
    module: Network | str | None = None,
    data: Any = None,
    /,
    *,
    method: str | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    samples: int | None = None,
    task: Task | Mapping[str, Task] | None = None,
    valid: Any = 0.1,
    inputs: Inputs | Mapping[str, Any] | None = None,
    normalize_y: bool | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    config: str | Path | Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    **keys: Any,
) -> Any:
    """Train a Bayesian network and return its posterior. Collective over all ranks of the job.

    Under ``mpirun`` or ``srun`` the ranks share the work, with the same result; only rank 0 needs
    the data.

    Parameters
    ----------
    module
        An ``nn.Module``, which is not modified: copies that start from its parameters are trained;
        a function that creates one (such as its class), whose initial parameters are drawn from the
        seed; or the name of a network for ``model.name`` (None: that of ``config``). An ensemble
        needs a function, which creates each member.
    data
        ``(x, y)`` as arrays, tensors or numeric tables, with items on the first axis;
        ``((x, y), (x_valid, y_valid))``; a dictionary of ``x``, ``y``, ``x_valid``, ``y_valid``,
        ...; a torch ``Dataset`` of ``(x, y)``; a dataset folder; or a source that
        :func:`~hpcsamp.ingest.named.from_named` made. Several inputs are a dictionary of arrays by
        name in place of ``x``, several targets one in place of ``y``. Inputs are standardised by
        the training items.
    method
        ``method.name``, or a table with the method's arguments: ``{"name": "mean_field",
        "prior_std": 1.0}``.
    epochs, samples
        ``training.epochs`` and ``method.samples``, S.
    task
        Kind of targets, such as ``"classification"``, ``"regression"`` or ``"counts"``; for several
        targets, a dictionary by name. The default depends on ``y`` and is printed: whole numbers
        are classes, columns of zeros and ones are labels that may occur together, and all other
        targets are numeric.
    valid
        Fraction of the training items that is held out for validation, or ``(x, y)``.
    inputs
        Whether whole numbers in ``x`` are ``"ids"`` or ``"numbers"``; for several inputs, by name.
    normalize_y
        Whether targets are standardised in training; predictions are in the original units in any
        case. By default, floating-point targets are standardised unless a likelihood is given.
    output
        Run folder; by default, a temporary one that is removed when the process ends.
    resume
        Resume from the newest checkpoint in ``output``, if there is one. The module and the data
        must be passed again.
    config
        Configuration as a table, a file, or the name of one in the package; arguments take
        precedence over it.
    callbacks
        Objects that are called during the run, see :mod:`hpcsamp.training.callbacks`.
    quiet
        Whether to print nothing.
    keys
        Further keys of the configuration: ``seed=3``, ``loss="mean_mse"``,
        ``likelihood="student_t"``, ``optimizer={"lr": 1e-2}``, or dotted keys such as
        ``**{"optimizer.lr": 1e-2}``. After the data, ``data={"batch": 64}`` is the table of its
        keys.

    Returns
    -------
    Posterior
        As from ``hs.load(output, module=module)``: of the best state if ``training.patience`` is
        set, otherwise of the last state.

    Raises
    ------
    UsageError, DataError
        If arguments do not fit together; the message contains the argument and is the same on every
        rank.
    PreemptedError
        If the run was interrupted (Ctrl-C, or the stop button of a notebook). A checkpoint was
        written then, from which ``fit(..., output=output, resume=True)`` resumes.
    """
    world = mpi().COMM_WORLD
    module = keys.pop("module", module)
    if data is None:  # by keyword; after the data themselves, data is a table of the configuration
        data = keys.pop("data", None)
    folder = RunFolder(_folder(output, world))
    source, facts = None, None
    named = {"training.epochs": epochs, "method": method, "method.samples": samples}
    with together(world):
        asked = asked_for(config, keys | {k: v for k, v in named.items() if v is not None})
    with together(world):
        if world.Get_rank() == 0:
            if data is None:
                raise UsageError("hs.fit: no data: pass (x, y) or a dataset folder")
            if folder.begun() and not resume:
                raise UsageError(
                    f"{folder.path} already contains a run; continue it with resume=True, or "
                    f"choose another output"
                )
            path = str(data) if isinstance(data, str | Path) else str(folder.path / "data")
            if isinstance(data, str | Path):
                found = read_manifest(data)
                if found.targets and isinstance(task, str):
                    raise UsageError(
                        f"task = {task!r}, but {data} has the targets {', '.join(found.targets)}: "
                        f"pass a dictionary by name, or leave task out"
                    )
                facts = path, found.task, found.splits["train"]
            else:
                source = source_of(
                    data, valid=valid, task=tasks_of(asked) if task is None else task,
                    inputs=inputs, normalize_y=normalize_y, modelled=modelled(asked),
                )  # fmt: skip
                facts = path, source.task, source.splits["train"]
    path, kind, items = world.bcast(facts)
    by_name = module is None or isinstance(module, str)
    network: Any = nullcontext({"name": module} if module else {})
    if not by_name:
        network = offered(cast(Network, module))
    with network as table:
        with together(world):
            chosen = completed(asked, task, table, path, kind, items)
        topology = init(
            chosen.parallel.samples, model=chosen.parallel.model, device=chosen.parallel.device
        )
        world = topology.world
        with together(world):
            if source is not None:
                _write(source, Path(path), resume)
        chosen = prepare(chosen, None, world)
        if topology.is_root and not quiet and source is not None:
            _print_task(source, task)
        with _one_network(module, world), _readable(folder.path):
            stall = chosen.training.stall if topology.size > 1 else 0.0
            with (
                Watchdog(world, stall, folder.path / STALL),
                Trainer(
                    chosen, topology, folder.path, resume, quiet=quiet, callbacks=callbacks
                ) as trainer,
            ):
                trainer.run()
                best = trainer.keeper.best_step >= 0
    import hpcsamp

    which = "best" if chosen.training.patience is not None and best else "last"
    passed = {} if by_name else {"module": module}
    return hpcsamp.load(folder.path, checkpoint=which, **passed)


def _folder(output: str | Path | None, world: Any) -> Path:
    """Return the run folder, the same on all ranks. Collective."""
    made, nodes = None, set(world.allgather(platform.node()))
    with together(world):
        if output is None and len(nodes) > 1:
            raise UsageError(
                f"hs.fit: ranks on {len(nodes)} nodes need a run folder that all of them share: "
                f"pass output=..."
            )
        if world.Get_rank() == 0:
            if output is None:
                made = tempfile.mkdtemp(prefix="hpcsamp-")
                atexit.register(shutil.rmtree, made, ignore_errors=True)
            else:
                made = str(output)
    return Path(world.bcast(made))


def _write(source: Source, path: Path, resume: bool) -> None:
    """Write the arrays to a dataset, unless they were written before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        build(source, path, overwrite=not resume, waiting=lambda: None)
    except UsageError as e:
        if not resume or not path.is_dir():
            raise
        raise UsageError(
            f"the data differ from those with which the run was started, which are in {path}"
        ) from e


def _print_task(source: Source, task: Task | Mapping[str, Task] | None) -> None:
    for line in source.report:
        sys.stdout.write(f"data: {line}\n")
    if source.targets:
        tasks = ", ".join(f"{name} {of.task}" for name, of in source.targets.items())
        sys.stdout.write(f"task: {tasks}; change it with task={{name: ...}}\n")
    elif task is None:
        what = f"{source.classes} classes" if source.classes else "values"
        sys.stdout.write(
            f"task: {source.task}, because y contains {what}; change it with task=...\n"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within the block, the error of an interrupted run explains how to resume it in Python."""
    try:
        yield
    except PreemptedError as e:
        error = PreemptedError(str(e).replace("--resume", f"output={str(path)!r}, resume=True"))
        error.exit_code, error.agreed = e.exit_code, e.agreed
        raise error from e


@contextmanager
def _one_network(module: Any, world: Any) -> Iterator[None]:
    """Within the block, all ranks use the network of rank 0. Collective over the world."""
    if not isinstance(module, nn.Module) or world.Get_size() == 1:
        yield
        return
    layouts = world.allgather(layout_of(module))
    with together(world):
        for rank, layout in enumerate(layouts):
            if layout != layouts[0]:
                raise UsageError(
                    f"ranks must pass the same network to hs.fit: its layers or shapes differ "
                    f"between rank 0 ({layouts[0]}) and rank {rank} ({layout})"
                )
    own = module if world.Get_rank() == 0 else copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            first = world.bcast(tensor.detach().cpu() if world.Get_rank() == 0 else None)
            if own is not module:
                tensor.data.copy_(first)
    with offered(own):
        yield
