"""Load a finished run in Python, without MPI::

posterior = hs.load("runs/a")
print(posterior.predict(x, samples=64))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, one_process
from hpcsamp.models.given import NAME, offered
from hpcsamp.prediction.draws import network_of, some_items, together_in_one, weights_of
from hpcsamp.prediction.predicting import Predicting
from hpcsamp.prediction.statistics import estimate
from hpcsamp.run.assemble import network
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.restore import Restored, restore
from hpcsamp.weights.complex_parts import convert

if TYPE_CHECKING:
    import xarray as xr

    from hpcsamp.prediction.export import Predictive
    from hpcsamp.prediction.mixture import LoadedMixture


@overload
def load(
    folder: str | Path,
    checkpoint: str | Path = "last",
    *,
    device: str = "auto",
    samples: int | None = None,
    module: nn.Module | Callable[..., nn.Module] | None = None,
    settings: Sequence[str] = (),
    recalibrated: bool = True,
) -> LoadedPosterior: ...


@overload
def load(
    folder: list[str] | list[Path] | tuple[str | Path, ...],
    checkpoint: str | Path = "last",
    *,
    device: str = "auto",
    samples: int | None = None,
    module: nn.Module | Callable[..., nn.Module] | None = None,
    settings: Sequence[str] = (),
    recalibrated: bool = True,
) -> LoadedMixture: ...


def load(
    folder: str | Path | list[str] | list[Path] | tuple[str | Path, ...],
    checkpoint: str | Path = "last",
    *,
    device: str = "auto",
    samples: int | None = None,
    module: nn.Module | Callable[..., nn.Module] | None = None,
    settings: Sequence[str] = (),
    recalibrated: bool = True,
) -> LoadedPosterior | LoadedMixture:
    """Open a finished (or stopped) run in this process only. MPI is not started.

    The dataset is not needed: the run folder contains everything that predictions need.

    Parameters
    ----------
    folder
        Run folder; or several, whose mixture with equal weights is returned. The other arguments
        apply to each of them.
    checkpoint
        ``"last"``, ``"best"``, or the path of a checkpoint.
    device
        ``"auto"`` (a GPU if this process sees one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    samples
        Default ``S`` of predictions; None for ``evaluation.samples``, or else the number of samples
        that the method holds or usually draws.
    module
        Network of a run to which it was passed (``hs.fit(module, ...)``), or a function that
        creates it.
    settings
        ``"KEY=VALUE"`` changes of the configuration, such as ``"data.path=..."``.
    recalibrated
        Whether predictions use the recalibration of the run (``hpcsamp recalibrate``), if it has
        one. A mixture uses none.

    Returns
    -------
    LoadedPosterior or LoadedMixture

    Raises
    ------
    UsageError, CheckpointError, DataError
        If a folder contains no run, a run cannot be restored, or the runs cannot be mixed.
    """
    topology = one_process(device)
    if isinstance(folder, str | Path):
        return _load(
            RunFolder(folder), checkpoint, topology, samples, module, settings, recalibrated
        )
    if not folder:
        raise UsageError("hs.load([]): a mixture needs at least one run folder")
    from hpcsamp.prediction.mixture import LoadedMixture

    return LoadedMixture(
        [
            _load(RunFolder(run), checkpoint, topology, samples, module, settings, False)
            for run in folder
        ]
    )


def _load(
    found: RunFolder,
    checkpoint: str | Path,
    topology: Topology,
    samples: int | None,
    module: nn.Module | Callable[..., nn.Module] | None,
    settings: Sequence[str],
    recalibrate: bool,
) -> LoadedPosterior:
    if not found.path.is_dir():
        raise UsageError(f"there is no run folder {found.path}")
    config = found.config(settings)
    if module is not None and config.model.name != NAME:
        raise UsageError(
            f'{found.path}: the network of this run is model.name = "{config.model.name}", which '
            f"is built by name; leave module= out"
        )
    which = str(checkpoint)
    if which not in ("last", "best") and not Path(which).is_file():
        inside = found.checkpoints / which
        which = str(inside) if inside.is_file() else which
    with nullcontext() if module is None else offered(module):
        restored = restore(found, config, topology, samples=samples, which=which, posterior=True)
    return LoadedPosterior(restored, topology, module, recalibrate=recalibrate)


class LoadedPosterior(Predicting):
    """The posterior of a run, in this process only; see :func:`load`.

    Attributes
    ----------
    samples
        Default ``S`` of predictions.
    step, checkpoint
        Step and file of the checkpoint that holds the weights.
    """

    def __init__(
        self,
        restored: Restored,
        topology: Topology,
        module: nn.Module | Callable[..., nn.Module] | None = None,
        *,
        recalibrate: bool = True,
    ) -> None:
        super().__init__(restored, topology, recalibrate=recalibrate)
        self._module = module

    def __repr__(self) -> str:
        m, shapes = self.trained.manifest, self.run.shapes
        shape = shapes.told(" x ") or "number"
        target = f"{m.classes} classes" if m.classes else f"{shapes.target_values} values"
        return (
            f"<posterior of {self.restored.folder.path}: {self.config.model.name} by "
            f"{self.config.method.name}, step {self.restored.step}, {shape} to {target}, "
            f"{self.samples} samples, {self.topology.device}>"
        )

    def rollout(
        self,
        x: Any,
        steps: int,
        members: int | None = None,
        *,
        times: Any = None,
        perturb: float = 0.0,
        split: str | None = None,
    ) -> xr.Dataset:
        """Return forecasts of fields: the network is applied to its own outputs ``steps`` times.

        Parameters
        ----------
        x
            Raw inputs, or the path of a dataset folder, as for :meth:`predict`.
        steps
            Number of lead times.
        members
            Number of members, each with a weight sample of its own that is kept over time; None for
            :attr:`samples`.
        times
            UTC time of each item of ``x``, as datetime64, for features of the time of day and year.
        perturb
            Standard deviation of the normal noise that each member but the first adds to its
            initial state, in standard deviations of each variable.
        split
            As for :meth:`predict`.

        Returns
        -------
        xarray.Dataset
            ``forecast`` with the dimensions ``init_time`` (or ``item``), ``member``, ``lead_time``,
            ``variable`` and those of the grid, in the units of the data.

        Raises
        ------
        DataError
            If the items do not fit the run, or forcings are not known at all lead times.
        UsageError
            If the outputs are not variables of the input, or the method cannot draw this number of
            members.
        """
        from hpcsamp.prediction.rollout.in_python import rollout

        return rollout(self.with_samples(members), x, steps, times, perturb, split)

    def sample(self, count: int) -> dict[str, Tensor]:
        """Return the weights of the network in the first prediction samples.

        Parameters
        ----------
        count
            Number of draws.

        Returns
        -------
        dict
            Each parameter by its name in the network, ``(count, *shape)``. A parameter that is
            equal in all samples, as with Monte Carlo dropout, takes the memory of a single draw.

        Raises
        ------
        UsageError
            If the method has fewer samples.
        """
        of, x = self._of(count)
        draws = [weights_of(of.method, x, s) for s in range(count)]
        names = dict(self._network().named_parameters())
        return {name: together_in_one([d[name] for d in draws]) for name in names}

    def module(self, sample: int) -> nn.Module:
        """Return the network with the weights of one prediction sample, in evaluation mode.

        It shares no memory with the posterior. Its inputs must be standardised as in training;
        :meth:`to_torch` returns a module that takes raw inputs.

        Raises
        ------
        UsageError
            If there is no such sample.
        """
        if sample < 0:
            raise UsageError(f"sample {sample}: samples are counted from 0")
        of, x = self._of(sample + 1)
        return network_of(of.method, self._network, x, sample)

    def modules(self, count: int | None = None) -> Iterator[nn.Module]:
        """Yield the networks of the first prediction samples."""
        return (self.module(s) for s in range(self.samples if count is None else count))

    def to_torch(self, samples: int = 16) -> Predictive:
        """Return a module that takes raw inputs and returns a dictionary of predictions.

        It can be passed to ``torch.export.export``; see
        :class:`~hpcsamp.prediction.export.Predictive`.

        Raises
        ------
        UsageError
            If the method has fewer samples, or a sample cannot be represented by a network.
        """
        from hpcsamp.prediction.export import predictive

        return predictive(self, samples)

    def to_onnx(self, path: str | Path, samples: int = 16) -> Path:
        """Write :meth:`to_torch` as an ONNX file for any number of items; return its path.

        Raises
        ------
        UsageError
            As for :meth:`to_torch`; or if the packages of ``hpcsamp[export]`` are missing.
        """
        from hpcsamp.prediction.export import write_onnx

        return write_onnx(self, path, samples)

    def to_arviz(
        self,
        samples: int | None = None,
        *,
        data: str | Path | None = None,
        split: str | None = None,
    ) -> Any:
        """Return the posterior as ArviZ's InferenceData, an ``xarray.DataTree``.

        ``posterior`` contains the draws of :meth:`sample`, as one chain. With a split, the result
        also contains ``observed_data``; ``log_likelihood`` of its items in the units of training,
        if the predictive has a density; and, for labels and normal observations,
        ``posterior_predictive`` with one observation drawn from each sample.

        Parameters
        ----------
        samples
            Number of draws; None for :attr:`samples`.
        data, split
            A dataset folder (None for the run's own), and one of its splits. If both are None, no
            split is evaluated.

        Raises
        ------
        UsageError
            If the method cannot draw this number of samples, or ``arviz-base`` is missing.
        """
        from hpcsamp.prediction.arviz import inference_data

        return inference_data(self, samples, data, split)

    def _of(self, count: int) -> tuple[Self, Any]:
        """Return the posterior with at least ``count`` samples, and some items for its network."""
        if count < 1:
            raise UsageError(f"{count} samples: at least 1 is needed")
        of = self.with_samples(count) if count > self.samples else self
        of.method.prediction_share(of.samples, 1, 0)  # divides them over the members
        zeros = self.run.shapes.batch(3, dtype=self.run.dtype, device=self.topology.device)
        x = some_items(zeros, self.config.seed)
        of_run = self.run, of.method, self.topology, self.collectives
        estimate(*of_run, of.samples, x, self.training_set)
        return of, x

    def _network(self) -> nn.Module:
        """Create a network of this run with arbitrary weights."""
        with nullcontext() if self._module is None else offered(self._module):
            made = network(self.config, self.run.shapes)
        convert(made, self.run.dtype, self.topology.device)
        return made
