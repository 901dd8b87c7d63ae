"""``hpcsamp bench baselines --against numpyro``: the peer computes what hpcsamp does."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal

from hpcsamp import losses, models
from hpcsamp.bench.baselines.floor import FloorBaseline
from hpcsamp.bench.peer import cases, compare, environment
from hpcsamp.bench.turns import Turns
from hpcsamp.collectives import Alone
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.methods import MeanField

PLACE = environment.folder()
built = pytest.mark.skipif(
    not environment.is_built(PLACE),
    reason="NumPyro's environment is not built: run hpcsamp bench baselines --against numpyro once",
)
SMALL = {
    "regression": cases.Case((5, 7, 3), "tanh", "regression", 6, 4, 1, 0.7, 0.5, 0.1),
    "classification": cases.Case((4, 6, 6, 3), "relu", "classification", 8, 3, 1, 1.3, 1.0, 0.2),
}


@built
@pytest.mark.parametrize("task", SMALL)
def test_the_peers_loss_is_ours_on_its_own_draws(task, tmp_path):
    """Per item: mean over samples of the expected NLL and of log q - log p over N."""
    case = SMALL[task]
    _, batch = case.write(tmp_path)
    job = compare.peer_job(case, batch, environment.python(PLACE), None)
    with Turns([job]) as turns:
        (told,) = turns.rounds("draws", 1)[0]
        about = turns.end()[0]
    assert about["trained"] == 2 * sum((a + 1) * b for a, b in pairwise(case.widths))

    net = models.build(
        "mlp",
        {"hidden": case.widths[1:-1], "activation": case.activation},
        case.widths[:1],
        case.widths[-1],
        seed=1,
    ).double()
    names = {f"weight{k // 2}" if k % 2 == 0 else f"bias{k // 2}": name
             for k, name in enumerate(dict(net.named_parameters()))}  # fmt: skip
    x, y = (torch.from_numpy(a[: case.batch]) for a in case.arrays())
    x, y = x.double(), y if task == "classification" else y.double()
    outputs, ratios = [], []
    for sample in range(case.samples):
        weights, ratio = {}, 0.0
        for site, name in names.items():
            w = torch.tensor(told["draws"][site][sample], dtype=torch.float64)
            loc, scale = (
                torch.tensor(told["params"][f"{site}_auto_{k}"], dtype=torch.float64)
                for k in ("loc", "scale")
            )
            log_q, log_p = Normal(loc, scale).log_prob(w), Normal(0.0, case.prior_std).log_prob(w)
            ratio += float((log_q - log_p).sum())
            weights[name] = w.t()  # ours are (out, in)
        outputs.append(torch.func.functional_call(net, weights, (x,)))
        ratios.append(ratio)
    assert len(set(ratios)) == case.samples
    likelihood = losses.Gaussian(case.noise_std) if task == "regression" else losses.Categorical()
    each = losses.ExpectedNLL(likelihood)(torch.stack(outputs), y, case.samples, Alone())
    ours = float(each.mean()) + sum(ratios) / case.samples / cases.ITEMS
    assert told["loss"] / cases.ITEMS == pytest.approx(ours, rel=1e-5)


def test_the_floor_evaluates_and_penalises_what_mean_field_does():
    net = models.build("mlp", {"hidden": (7,), "activation": "tanh"}, (5,), 3, seed=1)
    layers = [part for part in net.modules() if isinstance(part, torch.nn.Linear)]
    floor = FloorBaseline(layers, torch.nn.Tanh(), prior_std=0.7, initial_std=1e-7)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(floor.outputs(x, 4), net(x).expand(4, -1, -1), atol=1e-5, rtol=1e-5)
    floor = FloorBaseline(layers, torch.nn.Tanh(), prior_std=0.7, initial_std=0.1)
    method = MeanField(net, prior_std=0.7, initial_std=0.1)
    torch.testing.assert_close(floor.divergence(), method.penalty(), rtol=1e-5, atol=0)


@built
def test_the_command_measures_and_records(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "baselines", "--against=numpyro", "--workload=13-50-1", "--rounds=2",
        "--steps=2", "--samples=3", "--batch=8", "--out", tmp_path, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "13-50-1" in done.out
    found = [json.loads(line) for line in (tmp_path / "baselines.jsonl").read_text().splitlines()]
    assert [r["variant"] for r in found] == ["hpcsamp", "numpyro", "eager_floor"]
    assert {len(r["rounds"]) for r in found} == {2}
    assert {r["trained"] for r in found} == {2 * (14 * 50 + 51)}
    assert len({*map(str, (r["cores"] for r in found))}) == 1
    assert len(found[0]["cores"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workload=13-50-2"], "did you mean '13-50-1'"),
        (
            ["--workload=vit-cifar10"],
            "--workload vit-cifar10: with --against numpyro choose from 13-50-1",
        ),
        (["--ranks=2"], "--ranks does not apply"),
        (["--full"], "--full does not apply"),
        (["--data=synthetic"], "--data does not apply"),
        (["--batch=5000"], "--batch 5000: --against numpyro has only 4096 items of data"),
        (["--against=numpyro,plain"], "measured alone"),
    ],
)
def test_what_does_not_apply_is_refused_before_anything_is_built(arguments, said, capsys):
    from hpcsamp.cli import app

    with pytest.raises(UsageError, match=said):
        app(["bench", "baselines", "--against=numpyro", *arguments], standalone_mode=False)


def test_an_environment_that_cannot_be_built_says_why_and_leaves_no_stamp(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    place = tmp_path / "cache" / "peer"
    with pytest.raises(HpcsampError, match=r"cannot be built in .*peer: Could not find .* jax"):
        environment.build(place, lines.append)
    assert lines
    assert not environment.is_built(place)
    assert not list(tmp_path.glob("cache/*.lock"))
    with pytest.raises(UsageError, match=r"HPCSAMP_CACHE: cannot create "):
        environment.build(tmp_path / "cache" / "peer.log" / "below" / "peer", lines.append)
