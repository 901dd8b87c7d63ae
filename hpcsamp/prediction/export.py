"""A posterior as one module that takes raw inputs, for torch.export and ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpcsamp.collectives import Alone
from hpcsamp.data.batch import Converter
from hpcsamp.errors import UsageError
from hpcsamp.prediction.draws import Evaluated
from hpcsamp.prediction.in_memory import NOT_EXPORTED, view_of
from hpcsamp.weights.calling import Caller
from hpcsamp.weights.inputs import inputs_of

if TYPE_CHECKING:
    from hpcsamp.prediction.load import LoadedPosterior


class Predictive(nn.Module):
    """The posterior predictive as a function of raw inputs.

    ``forward(x)``, or ``forward(first, second, ...)`` for several inputs in the order of the
    dataset, returns a dictionary of the arrays that ``posterior.predict`` returns, without
    quantiles. Each sample is a separate network; parameters that are equal in all of them are
    stored once.

    Parameters
    ----------
    posterior
        Posterior whose method has ``samples`` samples.
    networks
        Networks of the samples, as :meth:`LoadedPosterior.module` returns them.

    Attributes
    ----------
    inputs
        Names of the inputs, in order.
    """

    def __init__(self, posterior: LoadedPosterior, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        dataset = posterior.trained.items(1)
        run = posterior.run
        self._task, self._kinds = run.task, dict(dataset.kinds)
        self._view = view_of(posterior, dataset, Alone())
        self._dtype = run.dtype
        self._several = dataset.has_several_inputs
        self.inputs = tuple(self._kinds)
        self.networks = nn.ModuleList(networks)
        _share(self.networks)
        convert = Converter(dataset, posterior.topology.device, run.dtype, normalize=True)
        for name in self.inputs:
            scale = convert.scale(name)
            self.register_buffer(f"mean_{name}", scale and scale[0])
            self.register_buffer(f"factor_{name}", scale and scale[1])
        self._callers = [Caller(network) for network in self.networks]
        if self._view.parts:
            self._view = replace(self._view, method=self._callers[0])
        self._left_out = {name for array in NOT_EXPORTED for name in self._view.names(array)}

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return predictions of items ``(B, ...)`` by name."""
        named = {n: self._standardised(n, x) for n, x in zip(self.inputs, inputs, strict=True)}
        x: Any = inputs_of(named) if self._several else named["x"]
        outputs = torch.stack([call(x) for call in self._callers])
        prediction = self._task.predict(outputs, self._view.blank(outputs), self._view)
        made = prediction.lazy().items()
        return {name: make() for name, make in made if name not in self._left_out}

    def _standardised(self, name: str, x: Tensor) -> Tensor:
        kind = self._kinds[name]
        if kind in ("ids", "flags"):
            return x.to(torch.int64 if kind == "ids" else torch.bool)
        mean = getattr(self, f"mean_{name}")
        if mean is None:
            return x.to(self._dtype)
        factor: Tensor = getattr(self, f"factor_{name}")
        return ((x.to(mean.dtype) - mean) * factor).to(self._dtype)


def _share(networks: nn.ModuleList) -> None:
    """Store parameters and buffers once if they are equal in all networks."""
    first, *others = networks
    for path, part in first.named_modules():
        for kind in ("_parameters", "_buffers"):
            for key, value in getattr(part, kind).items():
                rest = [getattr(other.get_submodule(path), kind) for other in others]
                if value is not None and all(
                    key in own and own[key] is not None and torch.equal(own[key], value)
                    for own in rest
                ):
                    for own in rest:
                        own[key] = value


def predictive(posterior: LoadedPosterior, samples: int) -> Predictive:
    """Create the module of a posterior, in evaluation mode, with parameters that are not trained.

    Raises
    ------
    UsageError
        If a sample cannot be represented by a network with its own weights.
    """
    networks = [posterior.module(s) for s in range(samples)]
    for network in networks:
        if isinstance(network, Evaluated):
            why = network.reason or "the network's own random draws cannot be repeated"
            raise UsageError(
                f"samples of method {posterior.config.method.name} cannot be represented by "
                f"networks with weights and masks ({why}), so this posterior cannot be exported; "
                f"posterior.module(0) returns one sample"
            )
    of = posterior.with_samples(samples) if samples != posterior.samples else posterior
    made = Predictive(of, networks).eval().requires_grad_(False)
    return made


def example(posterior: LoadedPosterior, items: int = 2) -> tuple[Tensor, ...]:
    """Return raw inputs of the right shapes and types, all 0."""
    dataset = posterior.trained.items(1)
    arrays = dataset.manifest.arrays
    kinds: Mapping[str, Any] = dataset.kinds
    device = posterior.topology.device
    made = []
    for name in kinds:
        kind = torch.bool if kinds[name] == "flags" else _type(arrays[name].dtype)
        made.append(torch.zeros(items, *arrays[name].shape, dtype=kind, device=device))
    return tuple(made)


def _type(name: str) -> torch.dtype:
    """Torch's type for a NumPy type in this machine's byte order."""
    import numpy as np

    kind = np.dtype(name).newbyteorder("=")
    return torch.from_numpy(np.zeros(1, kind)).dtype


def write_onnx(posterior: LoadedPosterior, path: str | Path, samples: int) -> Path:
    """Write the module of a posterior as an ONNX file for any number of items.

    Raises
    ------
    UsageError
        If packages are missing (``pip install 'hpcsamp[export]'``), or the exporter does not
        support an operation of the network.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise UsageError(f"{e}: to_onnx needs pip install 'hpcsamp[export]'") from None
    module = predictive(posterior, samples)
    inputs = example(posterior)
    with torch.no_grad():
        names = list(module(*inputs))
    batch = torch.export.Dim("items")
    try:
        with warnings.catch_warnings():  # torch's exporter calls deprecated functions of torch
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=list(module.inputs),
                output_names=names,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            )
    except torch.onnx.OnnxExporterError as e:
        root: BaseException = e
        while root.__cause__ is not None:
            root = root.__cause__
        reason = next((line for line in str(root).splitlines() if line.strip()), "")
        raise UsageError(
            f"the network cannot be exported to ONNX: {type(root).__name__}: {reason}"
        ) from e
    return Path(path)
