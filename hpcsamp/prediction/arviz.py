"""Convert a posterior to ArviZ's InferenceData: draws of weights, and predictions of a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.losses.likelihoods import log_prob_of
from hpcsamp.prediction.file_attributes import attributes
from hpcsamp.prediction.in_memory import batches_of, view_of
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.tasks.components import Samples, normal_components
from hpcsamp.tasks.outputs import local_outputs
from hpcsamp.tasks.outputs import split as split_outputs
from hpcsamp.tasks.several import in_file
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
        found, axes, of_targets = _of_split(of, data, split)
        twice = dims.keys() & of_targets.keys()
        if twice:
            raise UsageError(f"{min(twice)} is the name of both a target and a parameter")
        groups |= found
        dims |= of_targets
    facts = attributes(of.facts(), of.trained.manifest.uid)
    return arviz_base.from_dict(groups, coords=axes, dims=dims, attrs=dict.fromkeys(groups, facts))


def _of_split(
    of: LoadedPosterior, data: str | Path | None, split: str | None
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, list[str]]]:
    """Return the groups of a split, coordinates of its axes, and dimensions of each target."""
    dataset = of.open(data, split)
    whole = view_of(of, dataset, of.collectives)
    views = dict(whole.parts) or {"y": whole}
    noise = _noise(of, views, dataset.count)
    groups: dict[str, dict[str, list[Tensor]]] = {
        "observed_data": {}, "posterior_predictive": {}, "log_likelihood": {}
    }  # fmt: skip

    def add(group: str, name: str, values: Tensor) -> None:
        groups[group].setdefault(name, []).append(values)

    for batch in batches_of(of, dataset):
        index = torch.from_numpy(batch.index)
        outputs = local_outputs(of.method, batch.x, of.samples, of.collectives, index)
        several = bool(whole.parts)
        own = split_outputs(outputs, of.method, list(views)) if several else {"y": outputs}
        for name, view in views.items():
            y = batch.y[name] if several else batch.y
            known = batch.mask.get(name) if several and batch.mask is not None else batch.mask
            labels = view.targets.classes is not None
            add("observed_data", name, y if labels else view.units.value(y))
            if not isinstance(view.likelihood, Samples):
                add("log_likelihood", name, _density(view, own[name], y, known))
            if name in noise:
                drawn = noise[name][:, index].to(outputs.device)
                add("posterior_predictive", name, _drawn(view, own[name], y, drawn))
    made = {}
    for group, arrays in groups.items():
        along = 0 if group == "observed_data" else 1
        joined = {n: torch.cat(parts, along).cpu().numpy() for n, parts in arrays.items()}
        if joined:
            made[group] = joined if along == 0 else {n: v[None] for n, v in joined.items()}
    axes, dims = {"item": np.arange(dataset.count)}, {}
    for name, view in views.items():
        named = {
            in_file(name, axis.name) if whole.parts else axis.name: axis.values
            for axis in view.coordinates.axes
        }
        dims[name] = ["item", *named]
        axes |= named
    return made, axes, dims


def _noise(of: LoadedPosterior, views: Mapping[str, View], items: int) -> dict[str, Tensor]:
    """Return random numbers with which observations are drawn from the predictive distribution.

    Standard normal numbers ``(S, N, ...)`` for each numeric target, standard Gumbel numbers
    ``(S, N, ..., C)`` for each target with labels. Targets whose observations cannot be drawn are
    left out.
    """
    rows: dict[str, list[Tensor]] = {}
    for s in range(of.samples):
        source = torch_generator("cpu", of.config.seed, Purpose.OBSERVATIONS, s)
        for name, view in views.items():
            shape, classes = (items, *view.targets.shape), view.targets.classes
            if classes is not None:
                uniform = torch.rand(*shape, classes, generator=source, dtype=torch.float64)
                drawn = -(-uniform.clamp_min(1e-300).log()).log()
            elif normal_components(view.likelihood):
                drawn = torch.randn(shape, generator=source, dtype=torch.float64)
            else:
                continue
            rows.setdefault(name, []).append(drawn)
    return {name: torch.stack(parts) for name, parts in rows.items()}


def _density(view: View, outputs: Tensor, y: Tensor, known: Tensor | None) -> Tensor:
    """Return ``(S, B)`` log densities of the known values; NaN for items without one."""
    if known is None:
        return view.likelihood.log_prob(outputs, y).double()
    found = log_prob_of(view.likelihood, outputs, y.masked_fill(~known, 0), known.to(outputs.dtype))
    some = known.reshape(len(known), -1).any(1)
    return found.double().masked_fill(~some, torch.nan)


def _drawn(view: View, outputs: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Draw ``(S, B, ...)`` observations, one from each sample."""
    classes = view.targets.classes
    if classes is not None:
        known = y.clamp(0, classes - 1)  # a missing label is drawn as well
        log_p = view.likelihood.log_probabilities(outputs, known, classes)
        return (log_p.double() + noise).argmax(-1)
    mean, variance = view.likelihood.moments(outputs, y)
    values = mean.double() + variance.double().sqrt() * noise
    return torch.stack([view.units.value(v) for v in values])
