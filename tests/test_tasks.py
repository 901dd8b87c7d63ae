"""Kinds of tasks: likelihoods, losses and metrics against formulas and peers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_cases import Crowd
from scipy import stats
from sklearn import metrics as peers
from torch.nn import functional as F  # noqa: N812

from hpcsamp import kinds
from hpcsamp import losses as L  # noqa: N812
from hpcsamp.collectives import Alone
from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import share
from hpcsamp.losses.class_weights import ClassWeights, balanced
from hpcsamp.losses.labels import log_softmax
from hpcsamp.metrics import Confusion, MultilabelMetrics, OrdinalMetrics
from hpcsamp.names import TASKS
from hpcsamp.tasks import Targets, make
from hpcsamp.tasks.components import distribution_function
from hpcsamp.tasks.counts import deviance
from hpcsamp.tasks.multilabel import counts_of
from hpcsamp.tasks.predictive import entropy

S, B = 5, 7


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(high, *shape, seed=2):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


#: Likelihood, outputs of all samples, targets: labels.
OF_LABELS = {
    "categorical": (L.Categorical(0.1), draw(S, B, 4), labels(4, B), 4),
    "pixels": (L.Pixelwise(), draw(S, B, 4, 3, 5), labels(4, B, 3, 5), 4),
    "flat pixels": (L.Pixelwise(), draw(S, B, 60), labels(4, B, 3, 5), 4),
    "steps": (L.Pixelwise("last", 0.2), draw(S, B, 6, 4), labels(4, B, 6), 4),
    "bernoulli": (L.Bernoulli(0.05), draw(S, B, 3), labels(2, B, 3), 2),
    "ordinal": (L.CumulativeLogits(), draw(S, B, 4), labels(5, B), 5),
}
OF_COUNTS = {
    "poisson": (L.Poisson(), draw(S, B, 2), labels(9, B, 2).double()),
    "negative binomial": (L.NegativeBinomial(), draw(S, B, 2, 2), labels(9, B, 2).double()),
}


@pytest.mark.parametrize("name", OF_LABELS)
def test_probabilities_of_labels_sum_to_one_and_are_those_of_the_density(name):
    likelihood, outputs, target, classes = OF_LABELS[name]
    log_p = likelihood.log_probabilities(outputs, target, classes)
    assert log_p.shape == (S, *target.shape, classes)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(S, *target.shape).double())
    chosen = log_p.gather(-1, target.expand(S, *target.shape)[..., None])[..., 0]
    torch.testing.assert_close(likelihood.of_values(outputs, target), chosen)
    by_hand = L.Likelihood.log_probabilities(likelihood, outputs, target, classes)
    torch.testing.assert_close(by_hand, log_p)  # each label in turn taken for the target
    assert outputs[0, 0].numel() == likelihood.size(tuple(target.shape[1:]), classes)


def test_likelihoods_of_labels_are_those_of_torch():
    logits, target = draw(S, B, 4, 3, 5), labels(4, B, 3, 5)
    each = torch.stack([F.cross_entropy(y, target, reduction="none") for y in logits])
    torch.testing.assert_close(-L.Pixelwise().of_values(logits, target), each)
    turned = logits.movedim(2, -1)
    torch.testing.assert_close(-L.Pixelwise("last").of_values(turned, target), each)
    one, hot = draw(S, B, 3), labels(2, B, 3)
    expected = F.binary_cross_entropy_with_logits(one[0], hot.double(), reduction="none")
    torch.testing.assert_close(-L.Bernoulli().of_values(one, hot)[0], expected)
    mixed = 0.9 * torch.softmax(logits[:, :, :, 0, 0], -1) + 0.1 / 4
    found = L.Categorical(0.1).log_probabilities(logits[:, :, :, 0, 0], target[:, 0, 0], 4)
    torch.testing.assert_close(found.exp(), mixed)


def test_cumulative_logits_are_differences_of_sigmoids_and_stay_finite():
    o = draw(1, B, 3)
    steps = torch.cat([o[..., :1], o[..., :1] + F.softplus(o[..., 1:]).cumsum(-1)], -1)
    edges = torch.sigmoid(torch.cat([torch.full((1, B, 1), -math.inf), steps,
                                     torch.full((1, B, 1), math.inf)], -1))  # fmt: skip
    found = L.CumulativeLogits().log_probabilities(o, labels(4, B), 4)
    torch.testing.assert_close(found.exp(), edges.diff(dim=-1))
    far = torch.tensor([[[-900.0, 800.0, -700.0]]])
    assert L.CumulativeLogits().log_probabilities(far, labels(4, 1), 4).isfinite().all()


def test_deviance_of_counts_is_that_of_scikit_learn_and_of_a_sure_zero_0():
    target = torch.tensor([0.0, 1, 2, 7, 0], dtype=torch.float64)
    mean = torch.tensor([0.3, 1, 0.1, 9, 2], dtype=torch.float64)
    expected = peers.mean_poisson_deviance(target, mean)
    assert float(deviance(target, mean).mean()) == pytest.approx(expected, rel=1e-12)
    zero = torch.zeros(2)
    assert deviance(torch.tensor([0.0, 3.0]), zero).tolist() == [0, math.inf]


def test_counts_have_the_probabilities_and_moments_of_scipy():
    likelihood, outputs, target = OF_COUNTS["negative binomial"]
    mean, size = outputs[:, :, 0].exp(), outputs[:, :, 1].exp()
    truth = stats.nbinom(size.numpy(), (size / (size + mean)).numpy())
    density = likelihood.of_values(outputs, target)
    np.testing.assert_allclose(density, truth.logpmf(target.numpy()), rtol=1e-10)
    m, v = likelihood.moments(outputs, target)
    np.testing.assert_allclose(m, truth.mean())
    np.testing.assert_allclose(v, truth.var())
    below, up_to = distribution_function(likelihood, outputs, target)
    np.testing.assert_allclose(below, truth.cdf(target.numpy() - 1), atol=1e-14)
    np.testing.assert_allclose(up_to, truth.cdf(target.numpy()), atol=1e-14)
    # a large size is Poisson, in float32, too
    wide = torch.stack([outputs[:, :, 0], torch.full_like(outputs[:, :, 0], 14.0)], 2).float()
    poisson = L.Poisson().of_values(outputs[:, :, 0].float(), target.float())
    torch.testing.assert_close(
        likelihood.of_values(wide, target.float()), poisson, atol=1e-3, rtol=1e-3
    )


def everything():
    for name, (likelihood, outputs, target, _) in OF_LABELS.items():
        yield name, likelihood, outputs, target
    for name, (likelihood, outputs, target) in OF_COUNTS.items():
        yield name, likelihood, outputs, target


@pytest.mark.parametrize("name", [n for n, *_ in everything()])
@pytest.mark.parametrize("loss", ["expected_nll", "predictive_nll", "alpha_divergence"])
def test_losses_are_the_formula_on_any_number_of_ranks(name, loss):
    likelihood, outputs, target = next(e[1:] for e in everything() if e[0] == name)
    classes = outputs.shape[-1] + 1
    weights = None
    if likelihood.of_labels:
        weights = ClassWeights([0.5 + c for c in range(max(classes, int(target.max()) + 1))])
    made = L.LOSSES[loss](likelihood)
    made.class_weights = weights
    known = torch.ones_like(target, dtype=torch.bool)
    known.view(-1)[::4] = False
    missing = target.masked_fill(~known, -1)  # what stands there is of no matter

    def rank(group):
        mine = share(S, group.sample_size, group.sample_rank)
        own = outputs[mine.start : mine.stop].clone().requires_grad_()
        each = made(own, missing, S, group, known)
        (each * torch.arange(1, B + 1)).sum().backward()
        return each.detach(), own.grad

    value, gradient = rank(Alone())
    log_p = likelihood.of_values(outputs, target)
    w = known.double() * (1 if weights is None else weights(target).double())
    alpha = {"alpha_divergence": 0.5}.get(loss, 1.0)
    if loss == "expected_nll":
        expected = (-(log_p * w).mean(0)).reshape(B, -1).sum(1)
    elif likelihood.joint and target.dim() > 1:
        item = (log_p * w).reshape(S, B, -1).sum(-1)
        expected = -((alpha * item).exp().mean(0)).log() / alpha
    else:
        expected = (-w * (alpha * log_p).exp().mean(0).log() / alpha).reshape(B, -1).sum(1)
    torch.testing.assert_close(value, expected)
    for ranks in (2, 3):
        results = Crowd(ranks).run(rank)
        for found, _ in results:
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        parts = torch.cat([g for _, g in results])
        torch.testing.assert_close(parts, gradient, rtol=1e-11, atol=1e-13)


def test_balanced_weights_are_those_of_sklearn_and_have_a_mean_of_one():
    from sklearn.utils.class_weight import compute_class_weight

    y = torch.tensor([0, 0, 0, 0, 2, 2, 1])
    found = balanced(counts_of(y, 3))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y.numpy())
    np.testing.assert_allclose(found, expected)
    assert float(found[y].mean()) == pytest.approx(1)
    # of several labels each by itself: zeros and ones have the same part
    hot = labels(2, 40, 3)
    weights = ClassWeights(make("multilabel", {"class_weights": "balanced"}).balance(
        counts_of(hot, 2)))  # fmt: skip
    each = weights(hot)
    torch.testing.assert_close((each * hot).sum(0), (each * (1 - hot)).sum(0))
    torch.testing.assert_close(each.mean(0), torch.ones(3))


def test_class_weights_of_classification_are_those_of_torch():
    logits, target = draw(1, B, 3), labels(3, B)
    loss = L.ExpectedNLL(L.Categorical())
    loss.class_weights = make("classification", {"class_weights": [0.2, 1.0, 3.0]}).class_weights(
        Targets("classification", (), 3)
    )
    expected = F.cross_entropy(
        logits[0], target, weight=torch.tensor([0.2, 1.0, 3.0]).double(), reduction="none"
    )
    torch.testing.assert_close(loss(logits, target, 1, Alone()), expected)


def in_parts(metrics, update):
    """The same sums from two ranks' items."""
    for rows in (slice(0, 11), slice(11, None)):
        part = metrics()
        update(part, rows)
        yield part


def test_multilabel_metrics_are_those_of_sklearn():
    n, count = 40, 3
    p = torch.sigmoid(draw(n, count))
    y = labels(2, n, count)
    y[:, 2] = 0  # a label that never occurs
    log_p = torch.stack([(1 - p).log(), p.log()], -1)
    first, second = in_parts(
        lambda: MultilabelMetrics(count, 10),
        lambda m, r: m.update(log_p[r], y[r], torch.ones(n)[r], torch.zeros(n, count)[r]),
    )
    first.state += second.state
    found, said = first.compute(), (p > 0.5).int().numpy()
    truth = y.numpy()
    assert found["accuracy"] == pytest.approx((said == truth).mean())
    assert found["exact_match"] == pytest.approx(peers.accuracy_score(truth, said))
    macro = peers.f1_score(truth, said, average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(macro)
    assert found["f1_micro"] == pytest.approx(peers.f1_score(truth, said, average="micro"))
    assert found["brier"] == pytest.approx(
        np.mean([peers.brier_score_loss(truth[:, k], p[:, k]) for k in range(count)])
    )
    nll = F.binary_cross_entropy(p, y.double(), reduction="none").sum(1).mean()
    assert found["nll"] == pytest.approx(float(nll))
    by_label = first.by_label()["ece"].tolist()
    for k in range(count):
        bins = (p[:, k] * 10).long().clamp(max=9)
        gaps = [
            abs(float((p[:, k] - y[:, k])[bins == b].sum())) / n for b in bins.unique().tolist()
        ]
        assert by_label[k] == pytest.approx(sum(gaps))
    # what is not known counts nowhere
    known = torch.ones(n, count, dtype=torch.bool)
    known[:5], known[5:9, 0] = False, False
    some = MultilabelMetrics(count, 10)
    broken = log_p.clone()
    broken[:5] = -math.inf
    some.update(broken, y.masked_fill(~known, -1), torch.ones(n), torch.zeros(n, count), known)
    assert some.compute()["items"] == n - 5
    right = (said == truth)[:, 0][9:].mean()
    assert float(some.by_label()["accuracy"][0]) == pytest.approx(right)


def test_intersection_over_union_and_confusion_are_those_of_sklearn():
    predicted, y = labels(4, 30, 5, seed=3), labels(4, 30, 5)
    weight = torch.ones(30, 5)
    weight[:3] = 0
    first, second = in_parts(
        lambda: Confusion(4), lambda m, r: m.update(predicted[r], y[r], weight[r])
    )
    first.state += second.state
    truth, said = y[3:].flatten(), predicted[3:].flatten()
    np.testing.assert_array_equal(first.table(), peers.confusion_matrix(truth, said))
    expected = peers.jaccard_score(truth, said, average=None)
    np.testing.assert_allclose(first.iou(), expected)


def test_rank_scores_are_the_crps_of_a_rank():
    p = torch.softmax(draw(20, 5), -1)
    y = labels(5, 20)
    first, second = in_parts(
        OrdinalMetrics, lambda m, r: m.update(p[r].log(), y[r], torch.ones(20)[r])
    )
    first.state += second.state
    found = first.compute()
    # E|X - t| - E|X - X'| / 2 of each predictive distribution
    ranks = torch.arange(5.0).double()
    apart = (ranks[:, None] - ranks).abs()
    to_target = (p * (ranks - y[:, None]).abs()).sum(1)
    crps = to_target - 0.5 * torch.einsum("ni,nj,ij->n", p, p, apart)
    assert found["rps"] == pytest.approx(float(crps.mean()))
    median = [next(k for k in range(5) if p[i, : k + 1].sum() >= 0.5) for i in range(20)]
    assert found["mae_rank"] == pytest.approx(np.abs(np.array(median) - y.numpy()).mean())


BAD = [
    ("multilabel", Targets("x", (3,), 4), "labels of 4 classes of shape"),
    ("multilabel", Targets("x", (), 2), "shape \\(L,\\)"),
    ("segmentation", Targets("x", (), 3), "each pixel"),
    ("classification", Targets("x", (4, 4), 3), "one label for each item"),
    ("ordinal", Targets("x", (), None), "needs class labels"),
    ("counts", Targets("x", (), 3), "needs numbers"),
    ("counts", Targets("x", (), None, standardised=True), "standardised"),
    ("regression", Targets("x", (), 3), "needs numbers"),
]


@pytest.mark.parametrize(("kind", "targets", "words"), BAD)
def test_targets_of_another_kind_are_refused(kind, targets, words):
    with pytest.raises(UsageError, match=f'task = "{kind}".*{words}'):
        make(kind).check(targets)


def test_wrong_weights_shapes_and_counts_are_one_line():
    targets = Targets("classification", (), 3)
    with pytest.raises(UsageError, match="has 2 numbers, but the targets have 3 classes"):
        make("classification", {"class_weights": [1.0, 2.0]}).class_weights(targets)
    with pytest.raises(UsageError, match="must not be negative"):
        make("classification", {"class_weights": [1.0, -2.0, 1.0]}).class_weights(targets)
    with pytest.raises(UsageError, match="has 2 numbers, but the targets have 3 labels"):
        make("multilabel", {"class_weights": [1.0, 2.0]}).class_weights(Targets("m", (3,), 2))
    with pytest.raises(UsageError, match=r"logits of shape \(C, 3, 5\).*likelihood.channels"):
        L.Pixelwise().of_values(draw(S, B, 3, 5, 4), labels(4, B, 3, 5))
    with pytest.raises(UsageError, match="logits of 6 classes, but the targets have 4"):
        L.Categorical().log_probabilities(draw(S, B, 6), labels(4, B), 4)
    with pytest.raises(UsageError, match="5 ordered classes need 4 outputs"):
        L.CumulativeLogits().log_probabilities(draw(S, B, 5), labels(5, B), 5)
    with pytest.raises(UsageError, match="label_noise must be at least 0 and below 1, got 1"):
        L.Categorical(1.0)
    for values, said in (([1.0, 2.5], "2.5"), ([-1.0, 2.0], "-1")):
        with pytest.raises(DataError, match=f"contains {said}; counts must be whole"):
            make("counts").check_values(np.array(values), "y")
    make("counts").check_values(np.array([0.0, np.nan, 3.0]), "y")


def test_a_set_of_counts_holds_counts():
    from hpcsamp.data.manifest import ArraySpec
    from hpcsamp.ingest.checks import check_block
    from hpcsamp.ingest.source import ArraySource

    specs = {"x": ArraySpec.plan((2,), "<f4"), "y": ArraySpec.plan((), "<f4")}
    source = ArraySource(name="s", task="counts", arrays=specs, splits={"train": 3})
    block = {"x": np.zeros((3, 2), "f4"), "y": np.array([1, 2.5, 3], "f4")}
    with pytest.raises(DataError, match=r"y contains 2.5; counts must be whole numbers"):
        check_block(source, block, "here")
    check_block(source, block | {"y": np.array([1, 2, 3], "f4")}, "here")


def test_every_kind_of_task_has_a_likelihood_of_its_own_kind():
    for name, kind in TASKS.items():
        usual = L.LIKELIHOODS[kind.usual_likelihood]
        assert usual.of_labels == kind.labels, name
        assert "nll" in kind.best


def test_what_is_known_of_kinds_without_torch_is_what_their_classes_say():
    assert kinds.PARTS.keys() == TASKS.keys()
    for name, kind in TASKS.items():
        assert kind.parts == kinds.parts_of(name)
        assert kind.labels == (name in kinds.LABELS)


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 20), (4, 6, 2, 5, 3), (1, 6, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_and_entropy_are_torchs(shape, dtype):
    logits = 30 * draw(*shape).to(dtype)
    logits[0, 0], logits[0, 0, ..., 0] = -torch.inf, 0.0
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 0}
    log_p = log_softmax(logits)
    np.testing.assert_allclose(log_p, F.log_softmax(logits, -1), **close)
    expected = torch.special.entr(log_p.double().exp()).sum(-1)
    np.testing.assert_allclose(entropy(log_p), expected, rtol=1e-5, atol=1e-6)
    assert (entropy(log_p)[0, 0] == 0).all()
