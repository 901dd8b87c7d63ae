"""Exactness: any split of samples over ranks equals the sequential loss, in value and gradient."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from loss_cases import COLUMNS, ITEMS, ROWS, VALUES, Case, Crowd, cases

from hpcsamp import losses as L  # noqa: N812
from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.methods import MeanField
from hpcsamp.models import build

CASES = {case.name: case for case in cases()}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def sequential(case: Case, outputs, target, mask):
    outputs = outputs.clone().requires_grad_()
    each = case.loss(outputs, target, len(outputs), Alone(), mask)
    # items count differently, so that the gradient of each is looked at
    (each * torch.arange(1, len(each) + 1)).sum().backward()
    return each.detach(), outputs.grad


def on_ranks(case: Case, outputs, target, mask, ranks):
    def rank(group):
        mine = share(len(outputs), group.sample_size, group.sample_rank)
        own = outputs[mine.start : mine.stop].clone().requires_grad_()
        each = case.loss(own, target, len(outputs), group, mask)
        (each * torch.arange(1, len(each) + 1)).sum().backward()
        return each.detach(), own.grad

    crowd = Crowd(ranks)
    results = crowd.run(rank)
    return [each for each, _ in results], torch.cat([g for _, g in results]), crowd.bytes


def masks(case: Case):
    if case.kind == "labels" or isinstance(case.loss, L.Custom):
        return [None]
    known = torch.rand(
        len(case.target()), ROWS, COLUMNS, generator=torch.Generator().manual_seed(9)
    )
    return [None, known > 0.3]


def relative(got, want):
    return float((got - want).norm() / want.norm().clamp(min=1e-300))


@pytest.mark.parametrize("name", CASES)
def test_every_split_has_the_sequential_value_and_gradient(name):
    case = CASES[name]
    for dtype, samples, mask in itertools.product(TOLERANCE, (1, 2, 5, 16), masks(case)):
        outputs, target = case.outputs(samples, dtype=dtype), case.target(dtype=dtype)
        value, gradient = sequential(case, outputs, target, mask)
        assert value.dtype == dtype
        assert torch.isfinite(gradient).all()
        if samples > 1 or not name.startswith("user's c"):
            assert gradient.norm() > 0
        for ranks in {1, 2, 3, 4, samples}:
            if ranks > samples:
                continue
            values, got, _ = on_ranks(case, outputs, target, mask, ranks)
            where = (name, dtype, samples, ranks, mask is not None)
            for v in values:
                assert relative(v, value) < TOLERANCE[dtype], where
            assert (got - gradient).norm() < TOLERANCE[dtype] * max(gradient.norm(), 1e-3), where


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    case = CASES[name]
    outputs, target = case.outputs(3, items=2).requires_grad_(), case.target(2)
    assert torch.autograd.gradcheck(lambda y: case.loss(y, target, 3, Alone()), outputs)


@pytest.mark.parametrize("name", L.LOSSES)
def test_the_documented_bytes_are_those_exchanged(name):
    loss = L.LOSSES[name]
    case = next(c for c in CASES.values() if type(c.loss) is loss)
    said = loss.about.bytes
    assert said in loss.__doc__
    values = 1 if case.kind == "labels" else VALUES
    within = [e for e in loss.about.exchanges if "over data groups" not in e.what]
    assert len(within) == len(loss.about.exchanges) - loss.joint
    if loss.linear:
        assert said == "0"  # the exchange that is seen is that of the value
    for s, p, items in ((5, 2, ITEMS), (8, 4, 8)):  # 4 ranks have equal shares
        if loss.linear:
            continue
        outputs = case.outputs(s, items, torch.float32)
        _, _, counted = on_ranks(case, outputs, case.target(items, torch.float32), None, p)
        sums = 0 if name == "crps" and p == 2 else 1  # every rank has all samples
        assert counted == sum(e.bytes(s, items, values, p) for e in within[:-1]) + (
            sums * within[-1].bytes(s, items, values, p)
        )


@pytest.mark.parametrize("loss", [L.CRPS(), L.EnergyScore(alpha=0.95)], ids=["crps", "energy"])
def test_pairwise_losses_send_two_pths_of_a_gather(loss):
    """Also one sample per rank more or less, and values and items that P does not divide."""

    def gathered(y, t):
        return loss(y, t, len(y), Alone())

    for samples, items, ranks in ((8, 8, 4), (6, 7, 4), (3, 5, 3)):
        found, all_samples = Case("", loss, "values"), Case("", L.Custom(gathered), "values")
        outputs, target = found.outputs(samples, items), found.target(items)
        values, gradient, sent = on_ranks(found, outputs, target, None, ranks)
        same, want, most = on_ranks(all_samples, outputs, target, None, ranks)
        for v, w in zip(values, same, strict=True):
            assert relative(v, w) < 1e-12
        assert relative(gradient, want) < 1e-12
        if samples % ranks == items % ranks == 0:
            assert sent <= 2.2 / ranks * most
        else:
            assert sent < most


@pytest.mark.parametrize("items", [1, 2])
def test_energy_scores_of_few_large_items_need_no_gather(items):
    """Each rank has all samples of its part of the values; P does not divide them."""
    samples, ranks, kind = 5, 4, torch.float64
    generator = torch.Generator().manual_seed(items)
    outputs = torch.randn(samples, items, 7, 31, generator=generator, dtype=kind)
    outputs[1] = outputs[0]  # a pair without direction
    target = torch.randn(items, 7, 31, generator=generator, dtype=kind)
    weight = torch.rand(7, 31, generator=generator, dtype=kind)
    for loss in (L.EnergyScore(alpha=0.95, weights=weight), L.EnergyScore(fair=False)):
        case = Case("", loss, "values")
        wanted, slope = sequential(case, outputs, target, None)
        values, gradient, sent = on_ranks(case, outputs, target, None, ranks)
        for value in values:
            assert relative(value, wanted) < 1e-12
        assert relative(gradient, slope) < 1e-12
        assert sent < 8 * samples * items * (2 * 56 + samples + 2)  # of 217 in a gather


@pytest.mark.parametrize("name", CASES)
def test_averaging_gradients_is_exact_for_linear_losses_alone(name):
    case = CASES[name]
    found = L.check_exactness(case.loss, case.outputs(5), case.target())
    assert found.exact == case.loss.linear, str(found)
    assert set(found.gradient_error) == {2, 3, 4, 5}
    if not found.exact:
        assert max(found.gradient_error.values()) > 1e-3
        assert "not exact" in str(found)
    else:
        assert "exact: averaging" in str(found)


def test_check_exactness_takes_any_callable():
    y, t = CASES["mse"].outputs(4, dtype=torch.float32), CASES["mse"].target(dtype=torch.float32)
    target = t.flatten(1)
    assert L.check_exactness(lambda y, t: ((y - t) ** 2).mean(), y, target).exact
    off = L.check_exactness(lambda y, t: ((y.mean(0) - t) ** 2).mean(), y, target)
    assert not off.exact
    # by hand: the gradient of the mean of squares of one-sample means is that of the plain mean
    full = y.double()
    sequential = (full.mean(0) - target.double()).expand_as(full)
    averaged = full - target.double()
    assert off.gradient_error[4] == pytest.approx(relative(averaged, sequential), rel=1e-9)
    with pytest.raises(UsageError, match="at least 2 samples to split, got 1"):
        L.check_exactness(lambda y, t: y.mean(), y[:1], target)
    with pytest.raises(UsageError, match="not finite"):
        L.check_exactness(lambda y, t: (y - y).log().mean(), y, target)
    with pytest.raises(UsageError, match="does not depend"):
        L.check_exactness(lambda y, t: t.mean(), y, target)
    one = L.check_exactness(lambda y, t: y.var(0).mean(), y, target)  # undefined for one sample
    assert not one.exact


def test_a_callable_declared_linear_needs_no_exchange():
    def squares(y, t):
        return ((y - t) ** 2).sum(-1).mean(0)

    case = Case("declared", L.Custom(squares, exactness="linear"), "values")
    outputs, target = case.outputs(5), case.target().flatten(1)
    value, gradient = sequential(case, outputs, target, None)
    assert torch.allclose(value, squares(outputs, target), rtol=1e-14)
    values, got, _ = on_ranks(case, outputs, target, None, 3)
    assert relative(values[1], value) < 1e-12
    assert relative(got, gradient) < 1e-12
    assert case.loss.linear


def method_for(case: Case, **options):
    arguments = {"hidden": [5], "activation": "tanh"}
    network = build("mlp", arguments, (3,), case.outputs_per_item, seed=1).double()
    return MeanField(network, prior_std=0.5, initial_std=0.3, **options)


def modes(case: Case):
    return ["keep", "recompute", *(["stream"] if case.loss.linear else [])]


def inputs(items):
    return torch.randn(items, 3, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("name", CASES)
def test_memory_modes_have_one_value_and_gradient(name):
    """Also with several samples at once, item weights, masks, a factor of the KL, and exact off,
    and of batches that are taken in parts.
    """
    case = CASES[name]
    x, y, weight = inputs(6), case.target(), torch.tensor([1.0, 0, 2, 1, 0.5, 1]).double()
    for exact, mask in itertools.product((True, False), masks(case)):
        results = []
        for memory, (k, parts) in itertools.product(modes(case), ((1, 1), (2, 1), (1, 9), (2, 4))):
            method = method_for(case, samples_per_pass=k)
            elbo = L.ELBO(case.loss, 50, memory=memory, temperature=0.7, exact=exact,
                          warmup=L.schedules.linear(4), accumulate=parts)  # fmt: skip
            value = elbo(method, x, y, samples=5, step=1, weight=weight, count=5.5, mask=mask)
            (2 * value).backward()  # whatever comes after the loss must reach the gradient
            results.append((value.item(), torch.cat([p.grad for p in method.parameters()])))
        for value, gradient in results[1:]:
            assert value == pytest.approx(results[0][0], rel=1e-12)
            assert relative(gradient, results[0][1]) < 1e-11


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120, unit="s")
def test_any_grid_has_the_sequential_loss(mpi_ranks, comm):
    """Every loss on uneven shares, hybrid grids, in all memory modes, by each transport."""
    from hpcsamp.collectives import FlatGradient, choose
    from hpcsamp.grid import init

    axes = {1: ["world"], 2: ["world", "none"], 3: ["world"], 4: ["world", 2]}
    x = inputs(8)
    grids = []
    for axis in axes[mpi_ranks]:
        topology = init(axis)
        grids.append((axis, "mpi", topology, choose(topology, "mpi")))
        if axis == "world":  # one Horovod per process
            grids.append((axis, "horovod", topology, choose(topology, "horovod")))
        else:
            grids.append((axis, "torch", topology, choose(topology, "torch")))
    for number, case in enumerate(CASES.values()):
        samples = (4, 5, 16)[number % 3]
        y = case.target(8)
        weight = torch.tensor([1.0, 1, 0, 2, 1, 1, 0.5, 1]).double()
        mask = masks(case)[-1]
        mask = None if mask is None else torch.cat([mask, mask[:2]])
        for kl in ("analytic", "monte_carlo"):
            serial = method_for(case)
            expected = L.ELBO(case.loss, 40, kl=kl)(
                serial, x, y, samples=samples, step=2, weight=weight, mask=mask
            )
            expected.backward()
            want = torch.cat([p.grad for p in serial.parameters()])
            for (axis, transport, topology, collectives), memory in itertools.product(
                grids, modes(case)
            ):
                if kl == "monte_carlo" and memory == "keep":
                    continue
                parts = 1 if transport != "mpi" else 3  # of batches of 8 items or 4
                d, groups = topology.data_rank, topology.data_size
                part = slice(8 * d // groups, 8 * (d + 1) // groups)
                method = method_for(case)
                gradient = FlatGradient(method.parameters())
                value = L.ELBO(
                    case.loss, 40, collectives, memory=memory, kl=kl, accumulate=parts
                )(
                    method, x[part], y[part], samples=samples, step=2, weight=weight[part],
                    count=8 / groups, mask=None if mask is None else mask[part],
                )  # fmt: skip
                value.backward()
                collectives.reduce_gradient_(gradient.collect())
                mean = collectives.mean_over_data(value)
                where = (axis, transport, case.name, memory, samples, kl)
                assert mean.item() == pytest.approx(expected.item(), rel=1e-12), where
                assert relative(gradient.flat, want) < 1e-12, where


@pytest.mark.mpi(ranks=2, timeout=60, unit="s")
def test_wrong_use_is_the_same_line_on_every_rank(comm):
    from hpcsamp.collectives import choose
    from hpcsamp.grid import init

    collectives = choose(init("world"), "mpi")
    case = CASES["moments"]
    method, y = method_for(case), case.target()
    bare = L.GaussianMomentsNLL()
    with pytest.raises(UsageError, match=r"at least 2 samples; there are S = 1 on P = 1"):
        L.ELBO(bare, 9)(method, inputs(6), y, samples=1)
    with pytest.raises(UsageError, match=r"2 samples on each rank.*S = 3 on P = 2"):
        L.ELBO(bare, 9, collectives, exact=False)(method, inputs(6), y, samples=3)
    with pytest.raises(UsageError, match="S = 1 samples cannot be split over P = 2"):
        L.ELBO(bare, 9, collectives)(method, inputs(6), y, samples=1)
    value = L.ELBO(bare, 9, collectives)(method, inputs(6), y, samples=2)
    assert torch.isfinite(value)  # one sample on each rank


def test_bench_exactness_shows_what_averaging_costs(hpcsamp, tmp_path):
    """The errors it reports for imagined ranks are those of real ranks."""
    file = tmp_path / "table.json"
    done = hpcsamp(2, "bench", "exactness", "--model", "mlp", "--samples", 4, "--json", file)
    assert done.code == 0, done.err
    assert "gaussian_moments_nll" in done.out
    rows = json.loads(file.read_text())["losses"]
    assert len(rows) == 9
    for row in rows:
        linear = L.LOSSES[row["loss"]].linear
        assert (row["splits"]["2"] < 1e-6) == linear
        assert row["measured"] == pytest.approx(row["splits"]["2"], rel=1e-3, abs=1e-6)
        assert row["splits"]["1"] == 0
    moments = next(row for row in rows if row["loss"] == "gaussian_moments_nll")
    assert moments["splits"]["4"] is None  # one sample a rank has no variance
    assert hpcsamp(1, "bench", "exactness", "--model", "mpl").code == 2
