"""Networks: the number of parameters in the paper's description, shapes, and refusals."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.func import functional_call

from hpcsamp import models
from hpcsamp.errors import UsageError
from hpcsamp.models import MLP, Swin, ViT
from hpcsamp.models.steps import GRU, LSTM, Temporal
from hpcsamp.models.windows import row_mask

ERA5 = ((76, 121, 240), 69 * 121 * 240)


def count(model):
    return sum(p.numel() for p in model.parameters())


def norms(model):
    parts = (m for m in model.modules() if isinstance(m, nn.LayerNorm))
    return sum(p.numel() for m in parts for p in m.parameters())


def stated(model, text):
    """A number that the class's docstring states, as ``text 1,234``."""
    found = re.search(rf"{text}\s+([\d,]+)", model.__doc__)
    return int(found[1].replace(",", ""))


def test_the_vit_has_the_papers_parameters():
    model = ViT((3, 32, 32), 10)
    w, h = 192, 768
    layer = 4 * w * w + 2 * w * h + 9 * w + h
    arithmetic = 3 * 16 * w + w + w + 65 * w + 6 * layer + 2 * w + 10 * w + 10
    assert count(model) == arithmetic == stated(ViT, r"\n        all") == 2_693_578
    assert norms(model) == 4_992
    assert 2 * (count(model) - norms(model)) + norms(model) == 5_382_164
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_mlp_has_the_papers_parameters():
    model = MLP((96,), 24)
    assert count(model) == 97 * 128 + 129 * 128 + 129 * 24 == 32_024
    assert "32,024" in MLP.__doc__
    assert model(torch.randn(5, 96)).shape == (5, 24)


def test_the_swin_has_the_papers_parameters():
    with torch.device("meta"):
        model = Swin(*ERA5)
        out = model(torch.randn(1, *ERA5[0]))
    w = 540
    parts = {
        "patches to tokens .*? w": 4 * 76 * w + w,
        r"12 blocks of w .*?\)": 12 * (12 * w**2 + 13 * w),
        "downsampling .*? w.2": 8 * w + 8 * w**2,
        r"4 blocks of 2 w .*?\)": 4 * (48 * w**2 + 26 * w),
        "upsampling .*? 2 . w": 9 * w**2 + 2 * w,
        r"tokens to patches .*? \+ 69": 2 * w * 69 * 4 + 69,
        r"\n        all": 103_543_449,
    }
    for text, value in parts.items():
        assert stated(Swin, text) == value, text
    assert sum(parts.values()) == 2 * 103_543_449 == 2 * count(model)
    assert norms(model) == 48_600
    variational = 2 * (count(model) - norms(model)) + norms(model)
    assert variational == 207_038_298
    assert variational > 200e6 > count(model)
    assert f"{variational:,}" in Swin.__doc__
    assert out.shape == (1, 69, 121, 240)
    assert [len(b) for b in (model.before, model.between, model.after)] == [6, 4, 6]


def test_every_part_of_the_swin_has_its_parameters():
    w = 8
    model = Swin((5, 13, 48), 3 * 13 * 48, width=w, heads=(2, 4), window=(2, 6), blocks=(1, 2, 1))
    assert count(model.before) == 12 * w**2 + 13 * w
    assert count(model.between) == 2 * (48 * w**2 + 26 * w)
    assert count(model.downsample) == 8 * w + 8 * w**2
    assert count(model.upsample) == 9 * w**2 + 2 * w
    biased = Swin(
        (5, 13, 48),
        3 * 13 * 48,
        width=w,
        heads=(2, 4),
        window=(2, 6),
        blocks=(1, 2, 1),
        relative_bias=True,
    )
    assert count(biased) - count(model) == 3 * 11 * (2 + 2 * 4 + 2)


def swin(latitudes=13, **arguments):
    """A small one; 13 latitudes are 7 rows of patches, of which padding makes 8."""
    torch.manual_seed(0)
    options = {"width": 24, "heads": (2, 4), "blocks": (2, 2, 2), "window": (2, 6)} | arguments
    model = Swin((5, latitudes, 48), 3 * latitudes * 48, **options).double()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return model, torch.randn(2, 5, latitudes, 48).double()


@pytest.mark.parametrize("relative_bias", [False, True])
def test_a_roll_in_longitude_rolls_the_forecast(relative_bias):
    """By a window of the coarse grid: 6 tokens of 2 x 2 points, at half resolution."""
    model, x = swin(relative_bias=relative_bias)
    y = model(x)
    step = 6 * 2 * 2
    for times in (1, -1):
        rolled = model(x.roll(times * step, -1))
        assert (rolled - y.roll(times * step, -1)).abs().max() < 1e-12 * y.abs().max()
    # anything else moves tokens to other places of their windows
    for other in (1, 2, 12):
        assert (model(x.roll(other, -1)) - y.roll(other, -1)).abs().max() > 0.1 * y.abs().max()


def test_latitude_is_not_periodic():
    model, x = swin()
    y = model(x)
    for rows in (4, 8):  # a window of the fine and of the coarse grid
        assert (model(x.roll(rows, -2)) - y.roll(rows, -2)).abs().max() > 0.1 * y.abs().max()


def reach(model, x, out, into):
    """How strongly the forecast at one point depends on the input at another."""
    x = x.clone().requires_grad_()
    model(x)[0, :, out[0], out[1]].sum().backward()
    return float(x.grad[0, :, into[0], into[1]].abs().max())


def test_what_happens_at_one_side_of_the_date_line_is_seen_at_the_other():
    model, x = swin(blocks=(2, 0, 0))
    assert reach(model, x, (6, 47), (6, 0)) > 0
    plain, x = swin(blocks=(1, 0, 0))  # without a shifted block windows end there
    assert reach(plain, x, (6, 47), (6, 0)) == 0


def test_the_poles_are_not_neighbours():
    model, x = swin(latitudes=16, blocks=(2, 0, 0))
    assert reach(model, x, (15, 4), (0, 4)) == 0
    assert reach(model, x, (4, 4), (2, 4)) > 0  # though the shift does join rows of windows
    for block in model.before:  # and it is the mask that keeps the poles apart
        block._mask = lambda *_: None
    assert reach(model, x, (15, 4), (0, 4)) > 0


def test_padding_rows_are_never_seen():
    model, x = swin()
    y = model(x)

    def spoil(block, inputs):
        tokens, real = inputs[0].clone(), block._grid[0].real
        tokens[:, real:] = 1e3 * torch.randn_like(tokens[:, real:])
        return (tokens,)

    spoilt = 0
    for block in [*model.before, *model.between, *model.after, model.downsample]:
        block.register_forward_pre_hook(spoil)
        spoilt += block._grid[0].rows - block._grid[0].real
    assert spoilt == 5  # a row in each of the fine grid's four blocks and at the downsampling
    assert (model(x) - y).abs().max() < 1e-12 * y.abs().max()


@pytest.mark.parametrize(("rows", "real", "shift"), [(8, 7, 0), (8, 7, 1), (8, 8, 1), (4, 4, 2)])
def test_the_mask_says_which_rows_are_neighbours(rows, real, shift):
    window = (4, 3) if shift == 2 else (2, 3)
    mask = row_mask(rows, real, window, shift)
    for i in range(rows):
        for j in range(i - i % window[0], i - i % window[0] + window[0]):
            a, b = (i + shift) % rows, (j + shift) % rows
            across = a - b != i - j  # one from the first, one from the last rows
            want = not across and (a < real) == (b < real)
            t = (i % window[0] * window[1], j % window[0] * window[1])
            assert mask[i // window[0]][t[0] : t[0] + 3, t[1] : t[1] + 3].eq(want).all(), (i, j)
    assert row_mask(8, 8, (2, 3), 0) is None


@pytest.mark.parametrize("kind", ["swin", "vit"])
def test_checkpointing_changes_memory_alone(kind):
    """Also for weights from outside, which are gone from the module at the backward pass."""
    if kind == "swin":
        model, x = swin()
    else:
        torch.manual_seed(0)
        model = ViT((3, 8, 8), 4, patch=4, width=12, heads=3, layers=2, hidden=16).double()
        x = torch.randn(40, 3, 8, 8).double()
    weights = {k: torch.randn_like(p).mul_(0.3) for k, p in model.named_parameters()}

    def gradients(checkpoint):
        kept: list[int] = []
        model.checkpoint = checkpoint
        given = {k: w.clone().requires_grad_() for k, w in weights.items()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (kept.append(t.numel()), t)[1], lambda t: t
        ):
            out = functional_call(model, given, (x,))
        return out, torch.autograd.grad(out.square().sum(), list(given.values())), sum(kept)

    out, plain, all_kept = gradients(False)
    again, recomputed, few_kept = gradients(True)
    assert torch.equal(out, again)
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)
    assert few_kept < all_kept / 2


def test_several_samples_at_once_are_the_same():
    model, x = swin()
    weights = {k: torch.stack([p, 0.5 * p]) for k, p in model.named_parameters()}
    both = torch.func.vmap(lambda w: functional_call(model, w, (x,)))(weights)
    for i in range(2):
        alone = functional_call(model, {k: w[i] for k, w in weights.items()}, (x,))
        assert torch.allclose(both[i], alone, rtol=1e-10)


def test_checkpointing_refuses_several_samples_at_once():
    model, x = swin(checkpoint=True)
    weights = {k: torch.stack([p, p]) for k, p in model.named_parameters()}
    with pytest.raises(UsageError, match="samples_per_pass = 1"):
        torch.func.vmap(lambda w: functional_call(model, w, (x,)))(weights)


def test_dropout_follows_the_activations():
    kinds = [type(m).__name__ for m in MLP((4,), 2, hidden=(3, 3), dropout=0.1).layers]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert "Dropout" not in str(MLP((4,), 2))


def test_initial_values_are_kaimings():
    """Uniform within 1 / sqrt(fan in), as torch_blue draws its means: std 1 / sqrt(3 fan in)."""
    model = ViT((3, 32, 32), 10)
    for weight in (model.encoder[0].qkv.weight, model.encoder[3].down.weight):
        bound = 1 / math.sqrt(weight.shape[1])
        assert weight.abs().max() <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


GRID = (5, 13, 48)


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "outputs", "words"),
    [
        ("vit", {"patch": 4}, (1, 10, 8), 3, ["patch = 4", "10 x 8"]),
        ("vit", {"width": 50}, (1, 8, 8), 3, ["heads = 3", "50"]),
        ("vit", {}, (64,), 3, ["(channels, height, width)", "(64,)"]),
        ("mlp", {"dropout": 1.5}, (4,), 3, ["dropout = 1.5", "1"]),
        ("mlp", {"hidden": [0]}, (4,), 3, ["[0]", "1"]),
        ("swin", {"window": [2, 5]}, GRID, 3 * 13 * 48, ["5 columns", "24"]),
        ("swin", {"window": [2, 8]}, GRID, 3 * 13 * 48, ["8 columns", "12", "second"]),
        ("swin", {"window": [2, 6], "heads": [7, 4]}, GRID, 3 * 13 * 48, ["heads = 7", "540"]),
        ("swin", {"window": [2, 6], "heads": [4, 7]}, GRID, 3 * 13 * 48, ["heads = 7", "1080"]),
        ("swin", {"window": [6]}, GRID, 3 * 13 * 48, ["window = [6]", "2"]),
        ("swin", {"patch": 5}, GRID, 3 * 13 * 48, ["patch = 5", "48 longitudes"]),
        ("swin", {"patch": 16, "window": [2, 1]}, GRID, 3 * 13 * 48, ["3 columns", "halved"]),
        ("swin", {"window": [2, 6]}, GRID, 10, ["10 outputs", "13 x 48 = 624"]),
        ("swin", {}, (1, 8), 3, ["latitudes", "(1, 8)"]),
        ("swin", {"windows": [2, 6]}, GRID, 624, ["windows", "did you mean 'window'"]),
        ("swim", {}, GRID, 624, ["swim", "did you mean 'swin'"]),
    ],
)
def test_sizes_that_do_not_fit_are_one_line_with_both_numbers(
    name, arguments, shape, outputs, words
):
    with pytest.raises(UsageError) as e:
        models.build(name, arguments, shape, outputs, seed=1)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value)


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (MLP((96,), 24), torch.randn(3, 95), ["(3, 95)", "(96,)"]),
        (ViT((1, 8, 8), 3, width=12), torch.randn(2, 3, 8, 8), ["(2, 3, 8, 8)", "(1, 8, 8)"]),
        (ViT((1, 8, 8), 3, width=12), torch.randn(1, 8, 8), ["(1, 8, 8)", "(B, 1, 8, 8)"]),
        (MLP((4,), 2), torch.ones(3, 4, dtype=torch.uint8), ["torch.uint8", "torch.float32"]),
        (MLP((4,), 2), torch.randn(3, 4).double(), ["torch.float64", "torch.float32"]),
    ],
)
def test_inputs_of_another_shape_or_type(model, x, words):
    with pytest.raises(UsageError) as e:
        model(x)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value)


def test_autocast_converts_what_comes_in():
    with torch.autocast("cpu", torch.bfloat16):
        assert MLP((4,), 2)(torch.randn(3, 4).double().float()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [LSTM, GRU, Temporal])
def test_networks_of_series_read_all_steps(kind):
    small = {"width": 6, "patch": 5}
    for shape, outputs in (((3, 12), 4), ((12,), 4), ((2, 3), 30)):
        x = torch.randn(2, *shape, requires_grad=True)
        model = kind(shape, outputs, **small)
        out = model(x)
        assert out.shape == (2, outputs)
        (of,) = torch.autograd.grad(out[0].square().sum(), x)
        assert (of[0] != 0).all()  # each row and step matters
        assert (of[1] == 0).all()  # other items do not
    with pytest.raises(ValueError, match=r"got \(3, 4, 5\)"):
        kind((3, 4, 5), 2)
    with pytest.raises(ValueError, match="patch = 0"):
        kind((3,), 2, patch=0)


def test_an_lstm_reads_forwards():
    model, x = LSTM((1, 8), 3, width=4), torch.randn(2, 1, 8)
    states = model.cell(x.transpose(1, 2))[0]
    assert torch.equal(model(x), model.head(states[:, -3:].flatten(1)))
