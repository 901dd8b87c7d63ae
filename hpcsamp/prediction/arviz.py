"""A posterior as ArviZ's inference data: draws of weights, and a split as the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.prediction.memory import batches_of, view_of
from hpcsamp.prediction.records import attributes
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.tasks.components import Samples, normal_components
from hpcsamp.tasks.outputs import local_outputs
from hpcsamp.tasks.views import View

if TYPE_CHECKING:
    from hpcsamp.prediction.load import LoadedPosterior


def inference_data(
    posterior: LoadedPosterior, samples: int | None, data: str | Path | None, split: str | None
) -> Any:
    """See :meth:`LoadedPosterior.to_arviz`."""
    try:
        import arviz_base
    except ImportError as e:
        raise UsageError(f"{e}: to_arviz needs pip install 'hpcsamp[export]'") from None
    of = posterior.with_samples(samples)
    draws = of.sample(of.samples)
    groups: dict[str, Any] = {
        "posterior": {name: value[None].cpu().numpy() for name, value in draws.items()}
    }
    shapes = {name: value.shape[1:] for name, value in draws.items()}
    dims = {name: [f"{name} {i}" for i in range(len(shape))] for name, shape in shapes.items()}
    axes: dict[str, Any] = {}
    if data is not None or split is not None:
        found, axes = _of_split(of, data, split)
        groups |= found
        dims["y"] = list(axes)
    facts = attributes(of.facts(), of.trained.manifest.uid)
    return arviz_base.from_dict(groups, coords=axes, dims=dims, attrs=dict.fromkeys(groups, facts))


def _of_split(
    of: LoadedPosterior, data: str | Path | None, split: str | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Groups of a split, and its axes: the items, then those of a target."""
    dataset = of.open(data, split)
    if dataset.has_several_targets:
        raise UsageError(f"{dataset.path} has several targets; to_arviz shows a split with one")
    view = view_of(of, dataset, of.collectives)
    labels, likelihood = of.run.task.labels, view.likelihood
    alone = isinstance(likelihood, Samples)
    noise = _noise(of, view, dataset.count) if labels or normal_components(likelihood) else None
    observed, density, drawn = [], [], []
    for batch in batches_of(of, dataset):
        index = torch.from_numpy(batch.index)
        outputs = local_outputs(of.method, batch.x, of.samples, of.collectives, index)
        if not alone:
            density.append(likelihood.log_prob(outputs, batch.y).double())
        if noise is not None:
            own = noise[:, index].to(outputs.device)
            drawn.append(_drawn(view, outputs, batch.y, own))
        observed.append(batch.y if labels else view.units.value(batch.y))
    groups: dict[str, Any] = {"observed_data": {"y": torch.cat(observed).cpu().numpy()}}
    if drawn:
        groups["posterior_predictive"] = {"y": torch.cat(drawn, 1)[None].cpu().numpy()}
    if density:
        groups["log_likelihood"] = {"y": torch.cat(density, 1)[None].cpu().numpy()}
    axes = {axis.name: axis.values for axis in view.coordinates.axes}
    return groups, {"item": np.arange(dataset.count)} | axes


def _noise(of: LoadedPosterior, view: View, items: int) -> Tensor:
    """``(S, N, ...)`` normal numbers; of labels ``(S, N, ..., C)`` numbers of Gumbel's."""
    shape, classes = (items, *view.targets.shape), view.targets.classes
    rows = []
    for s in range(of.samples):
        source = torch_generator("cpu", of.config.seed, Purpose.OBSERVATIONS, s)
        if classes is not None:
            uniform = torch.rand(*shape, classes, generator=source, dtype=torch.float64)
            rows.append(-(-uniform.clamp_min(1e-300).log()).log())
        else:
            rows.append(torch.randn(shape, generator=source, dtype=torch.float64))
    return torch.stack(rows)


def _drawn(view: View, outputs: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """``(S, B, ...)`` observations, one of each sample."""
    classes = view.targets.classes
    if classes is not None:
        known = y.clamp(0, classes - 1)  # a label that is missing is drawn, too
        log_p = view.likelihood.log_probabilities(outputs, known, classes)
        return (log_p.double() + noise).argmax(-1)
    mean, variance = view.likelihood.moments(outputs, y)
    values = mean.double() + variance.double().sqrt() * noise
    return torch.stack([view.units.value(v) for v in values])
