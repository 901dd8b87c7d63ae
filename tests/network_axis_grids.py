"""Networks that are split over model ranks, their settings, and their grids."""

from __future__ import annotations

#: D, P, M. All networks are trained on the first two, those of :data:`ON_ALL` on the others, too.
GRIDS = [(1, 1, 1), (1, 1, 2), (1, 1, 4), (1, 2, 2), (2, 1, 2)]

_COMMON = """
seed = 3
task = "{task}"
[data]
path = "{data}"
batch = 12
synthetic = {{ {synthetic} }}
[model]
{model}
[method]
name = "mean_field"
samples = 2
samples_per_pass = 1
scale_std = true
[loss]
name = "expected_nll"
[optimizer]
name = "Adam"
lr = 1e-2
[training]
steps = 4
log_every = 1
evaluate_every = 2
precision = "float64"
[parallel]
collectives = "mpi"
[evaluation]
samples = 2
"""
_DIGITS = {"task": "classification", "synthetic": 'like = "digits", items = 60'}
_FIELDS = {"task": "regression", "synthetic": 'like = "era5", items = 30, grid = [5, 16]'}
_VIT = 'name = "vit"\npatch = 2\nwidth = 12\nheads = 3\nlayers = 1\nhidden = 9'
_SWIN = 'name = "swin"\nwidth = 8\nheads = [2, 4]\nblocks = [2, 2, 1]\nwindow = [2, 2]'
BASES = {
    "vit": _DIGITS | {"model": _VIT},
    "swin": _FIELDS | {"model": _SWIN},
    "own": _FIELDS | {"model": 'name = "own_axis:Points"'},
}


def text(base: str, data: str) -> str:
    """The configuration of a network."""
    return _COMMON.format(data=data, **BASES[base])


MASKS = ("method={name='mc_dropout', samples=2, prior_std=1.0}", "model.dropout=0.2")
ENSEMBLE = (
    "method={name='ensemble', samples=2, samples_per_pass=2, strategy='vmap', prior_std=1.0}",
    "optimizer.clip=0.5",
)
BIASED, KEPT = "model.relative_bias=true", "model.checkpoint=true"
#: A network and settings by name.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vit": ("vit", ()),
    "vit_heads": ("vit", ("model.heads=4", KEPT, "loss.name=predictive_nll")),
    "vit_masks": ("vit", (*MASKS, "model.heads=2")),
    "vit_ensemble": ("vit", ENSEMBLE),
    "swin": ("swin", ("likelihood.std=0.5", BIASED)),
    "swin_learned": ("swin", (KEPT, "loss.latitudes=data", "model.heads=[1,2]")),
    "swin_masks": ("swin", (*MASKS, "likelihood.std=0.5", "method.masks=item")),
    "own": ("own", ()),
}
ON_ALL = ("vit", "swin", "own")
#: Begun on the first grid, gone on with on the others.
RESUMED = [(1, 1, 2), (1, 1, 1), (1, 1, 4)]
RUNS_RESUMED = ("vit", "swin")
#: Evaluated, as they were trained on two model ranks, on these grids.
EVALUATED = ("vit", "swin")
EVALUATIONS = [(1, 1, 1), (1, 1, 2), (1, 1, 4)]


def grids_of(run: str) -> list[tuple[int, int, int]]:
    """The grids on which a network is trained."""
    return GRIDS if run in ON_ALL else GRIDS[:2]
