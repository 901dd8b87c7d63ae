"""Augmentation: equal to torchvision's functional operations, keyed, whatever the grid."""

import numpy as np
import pytest
import torch

from hpcsamp.data.augment import Augmentation
from hpcsamp.errors import UsageError
from hpcsamp.vision import torchvision

X = torch.randn(6, 3, 8, 10, generator=torch.Generator().manual_seed(0))
INDEX = np.array([4, 0, 17, 5, 2, 99])
SAMPLES = range(2, 5)


def test_crop_and_flip_equal_torchvision_given_the_offsets():
    functional = torchvision().transforms.v2.functional
    augment = Augmentation(crop=2, flip=True, fill=0.5)
    views = augment(X, INDEX, epoch=3, samples=SAMPLES)
    drawn = augment.offsets(INDEX, 3, SAMPLES, 10)
    assert views.shape == (3, 6, 3, 8, 10)
    for v in range(3):
        for b in range(6):
            expected = functional.pad(X[b], [2, 2], fill=0.5)
            expected = functional.crop(expected, drawn.top[v, b], drawn.left[v, b], 8, 10)
            if drawn.flip[v, b]:
                expected = functional.horizontal_flip(expected)
            assert torch.equal(views[v, b], expected)
    assert 0 < drawn.flip.mean() < 1
    assert drawn.top.max() <= 4
    assert len(np.unique(drawn.left)) > 2


@pytest.mark.parametrize("share", ["sample", "rank", "all"])
@pytest.mark.parametrize("flat", [False, True])
def test_shifted_forecasts_come_back(share, flat):
    augment = Augmentation(shift=True, share=share, rank=1)
    views = augment(X, INDEX, epoch=2, samples=SAMPLES)
    outputs = (views if views.dim() == 5 else views.expand(3, *views.shape)).clone()
    outputs = outputs.flatten(2) if flat else outputs
    back = augment.undo(outputs, INDEX, epoch=2, samples=SAMPLES, width=10)
    assert back.shape == outputs.shape
    assert torch.equal(back.view(3, *X.shape), X.expand(3, *X.shape))
    assert not torch.equal(back, outputs)


def test_a_loss_of_forecasts_shifted_back_is_that_of_shifted_targets():
    """Values and gradients, sample by sample, with weights by latitude."""
    from hpcsamp.collectives import Alone
    from hpcsamp.losses import make
    from hpcsamp.losses.values import latitude_weights

    augment = Augmentation(shift=True)
    y = torch.randn(6, 2, 8, 10, generator=torch.Generator().manual_seed(1)).double()
    drawn = augment.offsets(INDEX, 0, SAMPLES, 10).shift
    shifted = torch.stack(
        [torch.stack([torch.roll(y[b], int(drawn[v, b]), -1) for b in range(6)]) for v in range(3)]
    )
    outputs = torch.randn(3, 6, 2, 8, 10).double().requires_grad_()
    loss = make("expected_nll", "regression", {"latitudes": list(range(-70, 80, 20))}, {"std": 0.3})
    assert torch.equal(loss.weights, latitude_weights(list(range(-70, 80, 20))))
    back = augment.undo(outputs, INDEX, epoch=0, samples=SAMPLES, width=10)
    one = loss(back, y, 3, Alone()).sum()
    each = sum(loss(outputs[s : s + 1], shifted[s], 1, Alone()).sum() / 3 for s in range(3))
    assert one.item() == pytest.approx(each.item(), rel=1e-12)
    got, want = (torch.autograd.grad(v, outputs)[0] for v in (one, each))
    assert torch.allclose(got, want, rtol=1e-12)


def test_forecasts_without_rows_of_that_width_cannot_come_back():
    augment = Augmentation(shift=True)
    with pytest.raises(UsageError, match=r"7 outputs for an item, .* 10 longitudes"):
        augment.undo(torch.zeros(3, 6, 7), INDEX, epoch=0, samples=SAMPLES, width=10)
    outputs = torch.zeros(3, 6, 7)
    plain = Augmentation(flip=True)
    assert plain.undo(outputs, INDEX, epoch=0, samples=SAMPLES, width=10) is outputs


def test_shift_rolls_fields():
    augment = Augmentation(shift=True)
    views = augment(X, INDEX, epoch=0, samples=SAMPLES)
    drawn = augment.offsets(INDEX, 0, SAMPLES, 10)
    for v in range(3):
        for b in range(6):
            assert torch.equal(views[v, b], torch.roll(X[b], int(drawn.shift[v, b]), -1))


def test_a_view_depends_on_seed_epoch_item_and_sample_alone():
    augment = Augmentation(crop=3, flip=True, shift=True)
    whole = augment(X, INDEX, epoch=1, samples=range(8))
    alone = augment(X[2:3], INDEX[2:3], epoch=1, samples=range(5, 6))
    assert torch.equal(alone[0, 0], whole[5, 2])
    others = [
        Augmentation(crop=3, flip=True, shift=True, seed=2)(X, INDEX, epoch=1, samples=range(8)),
        augment(X, INDEX, epoch=2, samples=range(8)),
        augment(X, INDEX + 1, epoch=1, samples=range(8)),
        augment(X, INDEX, epoch=1, samples=range(1, 9)),
    ]
    assert not any(torch.equal(whole, other) for other in others)


def test_who_shares_a_view():
    def views(share, rank=0, samples=SAMPLES):
        return Augmentation(crop=3, share=share, rank=rank)(X, INDEX, epoch=0, samples=samples)

    assert not torch.equal(views("sample")[0], views("sample")[1])
    assert torch.equal(views("rank")[0], views("rank")[1])
    assert torch.equal(views("rank"), views("rank", samples=range(6, 9)))
    assert not torch.equal(views("rank", 0), views("rank", 1))
    assert views("all").shape == X.shape
    assert torch.equal(views("all", 0), views("all", 3, range(7)))


def test_draws_are_uniform():
    drawn = Augmentation(crop=2, flip=True).offsets(np.arange(4000), 0, range(10), 8)
    counts = np.bincount(drawn.top.ravel(), minlength=5) / drawn.top.size
    assert np.abs(counts - 0.2).max() < 0.01  # 5 standard deviations
    assert abs(drawn.flip.mean() - 0.5) < 0.0125
    assert abs(np.corrcoef(drawn.top.ravel(), drawn.left.ravel())[0, 1]) < 0.025
    assert abs(np.corrcoef(drawn.top[0], drawn.top[1])[0, 1]) < 0.08


def test_torchvision_transforms_are_keyed_and_leave_the_global_generator_alone():
    told = [{"name": "RandomRotation", "degrees": 30}, {"name": "RandomErasing", "p": 1.0}]
    augment = Augmentation(transforms=told)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    views = augment(X, INDEX, epoch=0, samples=SAMPLES)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(augment(X, INDEX, epoch=0, samples=SAMPLES), views)
    assert torch.equal(augment(X[1:2], INDEX[1:2], epoch=0, samples=range(4, 5))[0, 0], views[2, 1])
    assert not torch.equal(views[0, 0], views[1, 0])


def test_unknown_transforms_are_refused():
    with pytest.raises(UsageError, match="'Blurr' is not a transform"):
        Augmentation(transforms=[{"name": "Blurr"}])
    with pytest.raises(UsageError, match="RandomRotation"):
        Augmentation(transforms=[{"name": "RandomRotation", "degree": 3}])


def test_a_run_on_shifted_fields_is_the_same_on_any_grid(hpcsamp, tmp_path):
    """Each sample has shifts of its own, the targets stay where they are."""
    from test_training import assert_same

    def run(name, ranks, *settings):
        sets = ("training.precision=float64", "training.steps=3", "method.samples=3", *settings)
        arguments = ["swin-era5", "--preset", "small", "--data", "synthetic", "--output", name]
        sets = [f"--set={s}" for s in ("data.synthetic.items=20", "model.width=24", *sets)]
        done = hpcsamp(ranks, "train", *arguments, *sets, cwd=tmp_path, timeout=120)
        assert done.code == 0, done.err
        return tmp_path / name

    reference = run("one", 1)
    assert_same(run("two", 2, "parallel.samples=2"), reference)
    with pytest.raises(AssertionError):
        assert_same(run("all", 1, "augment.share=all"), reference)
