"""Laplace's approximation: exact where it is exact, the same on any grid, refused where wrong."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import composite_sets
import pytest
import torch
from torch import nn

from hpcsamp.errors import DataError, UsageError
from hpcsamp.losses import Gaussian
from hpcsamp.losses.labels import Categorical, Pixelwise
from hpcsamp.methods import Ensemble
from hpcsamp.methods.curvature import FORMS, Kronecker, best_precision, effective, log_evidence
from hpcsamp.methods.laplace import Laplace
from hpcsamp.prediction.gauss_newton import GaussNewton, check_probit
from hpcsamp.run import laplace as kept
from hpcsamp.run.folder import RunFolder

STD, TAU = 0.3, 2.0


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def summed(network, kind, likelihood, x, y, weight=None):
    sums = GaussNewton(network, network, kind, likelihood, x[:1])
    for part in (slice(0, 7), slice(7, None)):
        own = torch.ones(len(x)).double() if weight is None else weight
        sums.add(x[part], y[part], own[part])
    return sums


def brute(network, y_of, x, likelihood):
    """Generalised Gauss-Newton matrix in all parameters, from whole Jacobians and Hessians."""
    names = list(dict(network.named_parameters()))
    start = torch.cat([p.detach().flatten() for p in network.parameters()])

    def call(flat, item):
        at, values = 0, {}
        for name, p in network.named_parameters():
            values[name] = flat[at : at + p.numel()].view_as(p)
            at += p.numel()
        return torch.func.functional_call(network, values, (item[None],))[0]

    total = start.new_zeros(len(start), len(start))
    for item, target in zip(x, y_of, strict=True):
        j = torch.autograd.functional.jacobian(lambda f, item=item: call(f, item), start)
        of = call(start, item)
        h = torch.autograd.functional.hessian(
            lambda o, target=target: -likelihood.log_prob(o[None, None], target[None])[0, 0], of
        )
        total += j.T @ h @ j
    assert names
    return total


def linear_gaussian():
    x, truth = normal(40, 3), normal(4)
    y = (x @ truth[:3] + truth[3])[:, None] + STD * normal(40, 1, seed=1)
    design = torch.cat([x, torch.ones(40, 1).double()], 1)
    covariance = torch.linalg.inv(design.T @ design / STD**2 + TAU * torch.eye(4).double())
    mean = covariance @ design.T @ y[:, 0] / STD**2
    network = nn.Linear(3, 1).double()
    with torch.no_grad():
        network.weight.copy_(mean[None, :3])
        network.bias.copy_(mean[3:])
    return network, x, y, design, mean, covariance


@pytest.mark.parametrize("kind", ["last", "last_kron", "kron"])
def test_linear_gaussian_is_exact(kind):
    network, x, y, design, mean, covariance = linear_gaussian()
    sums = summed(network, kind, Gaussian(STD), x, y)
    (curvature,) = sums.curvatures().values()
    torch.testing.assert_close(
        curvature.variances(TAU)[0], covariance.diagonal(), rtol=1e-9, atol=1e-12
    )
    root = curvature.draw(torch.eye(4).double()[:, None], TAU)[:, 0]
    torch.testing.assert_close(root @ root.T, covariance, rtol=1e-9, atol=1e-12)
    evidence = log_evidence(sums.log_likelihood, curvature.eigenvalues(), float(mean @ mean), TAU)
    whole = torch.distributions.MultivariateNormal(
        torch.zeros(40).double(), design @ design.T / TAU + STD**2 * torch.eye(40).double()
    )
    assert evidence == pytest.approx(float(whole.log_prob(y[:, 0])), rel=1e-9)
    for linear in (False, True):  # the moments of many draws, and one draw by hand
        for p in network.parameters():
            p.requires_grad_(True)
        method = Laplace(network, {"": curvature}, TAU, linear=linear, seed=3)
        with torch.no_grad(), method.predicting():
            outputs = method(x, samples=range(4000), step=0)[..., 0]
            weights = method.draw(0, range(4000))
        torch.testing.assert_close(outputs, weights @ design.T, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(weights.mean(0), mean, rtol=0, atol=0.02)
        spread = outputs.var(0) / (design @ covariance * design).sum(1)
        assert spread.sub(1).abs().max() < 0.1


def test_last_layer_of_labels_is_the_whole_hessian():
    x, y = normal(12, 3), torch.arange(12) % 3
    network = nn.Linear(3, 3).double()
    expected = brute(network, y, x, Categorical())
    order = torch.cat([torch.tensor([3 * o, 3 * o + 1, 3 * o + 2, 9 + o]) for o in range(3)])
    found = summed(network, "last", Categorical(), x, y).curvatures()[""].tensors()["matrix"]
    torch.testing.assert_close(found, expected[order][:, order], rtol=1e-9, atol=1e-12)
    diagonal = summed(trained(network), "diag", Categorical(), x, y).curvatures()[""]
    torch.testing.assert_close(
        diagonal.eigenvalues(), expected[order][:, order].diagonal(), rtol=1e-9, atol=1e-12
    )


def trained(network):
    for p in network.parameters():
        p.requires_grad_(True)
    return network


def test_kronecker_factors_of_a_linear_network_are_exact():
    x, y = normal(9, 3), normal(9, 2, seed=2)
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    expected = brute(network, y, x, Gaussian(STD))
    found = summed(network, "kron", Gaussian(STD), x, y).curvatures()
    for name, block in (("0", slice(0, 12)), ("1", slice(12, 20))):
        own = found[name]
        assert isinstance(own, Kronecker)
        torch.testing.assert_close(
            torch.kron(own.outputs, own.inputs), expected[block, block], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("of", ["convolution", "tokens"])
def test_diagonal_of_layers_with_positions(of):
    if of == "convolution":
        x, y = normal(8, 2, 4, 4), torch.arange(8) % 2
        network = nn.Sequential(
            nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)
        )
    else:
        x, y = normal(8, 3, 2), torch.arange(8) % 2
        network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Flatten())
        network.append(nn.Linear(6, 2))
    network = network.double()
    expected = brute(network, y, x, Categorical()).diagonal()
    found = summed(network, "diag", Categorical(), x, y).curvatures()
    parts = []
    for name, layer in network.named_modules():
        if name in found:
            h = found[name].diagonal
            parts += [h[:, :-1].flatten(), h[:, -1]]
            assert h.shape[0] == len(layer.weight)
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-9, atol=1e-12)


def test_an_item_weight_counts_as_items():
    x, y = normal(9, 3), torch.arange(9) % 3
    weight = torch.ones(9).double()
    weight[2], weight[8] = 3, 0
    for kind in ("last", "last_kron", "diag"):
        network = nn.Linear(3, 3).double()
        (one,) = summed(network, kind, Categorical(), x, y, weight).curvatures().values()
        index = torch.tensor([0, 1, 2, 2, 2, 3, 4, 5, 6, 7])
        if kind == "last_kron":  # the mean of G is over items, not over their weights
            (other,) = (
                summed(trained(network), kind, Categorical(), x[index], y[index])
                .curvatures()
                .values()
            )
            torch.testing.assert_close(one.inputs, other.inputs)
            continue
        (other,) = (
            summed(trained(network), kind, Categorical(), x[index], y[index]).curvatures().values()
        )
        torch.testing.assert_close(one.eigenvalues(), other.eigenvalues())


@pytest.mark.parametrize("kind", ["last", "diag"])
def test_probit_scales_logits_by_their_variances(kind, monkeypatch):
    x, y = normal(9, 2, 4, 4), torch.arange(9) % 3
    layers = [nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8, 3)).double()
    found = summed(network, kind, Categorical(), x, y).curvatures()
    names = list(dict(network.named_parameters()))[-2 if kind == "last" else 0 :]
    values = {name: p.detach() for name, p in network.named_parameters()}
    jacobian = torch.func.jacrev(
        lambda own: torch.func.functional_call(network, {**values, **own}, (x,))
    )({name: values[name] for name in names})
    if kind == "last":
        rows = torch.cat([jacobian["3.weight"], jacobian["3.bias"][..., None]], 3).flatten(2)
        covariance = torch.linalg.inv(found["3"].matrix + TAU * torch.eye(27).double())
        expected = torch.einsum("bci,ij,bcj->bc", rows, covariance, rows)
    else:
        expected = 0
        for name in names:
            h = found[name.partition(".")[0]].diagonal
            own = h[:, -1] if name.endswith("bias") else h[:, :-1]
            expected = expected + (jacobian[name].flatten(2).square() / (own.flatten() + TAU)).sum(
                2
            )
    monkeypatch.setattr("hpcsamp.methods.laplace.PORTION", 40)  # the items in several parts
    method = Laplace(trained(network), found, TAU, linear=kind == "diag", probit=True)
    with torch.no_grad(), method.predicting():
        logits, variances = method.logit_variances(x)
        outputs = method(x, samples=range(2, 4))
        assert torch.equal(method(x[None], samples=range(1), stacked=True)[0], outputs[0])
    torch.testing.assert_close(variances, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits, network(x).detach())
    scaled = logits / (1 + math.pi / 8 * expected).sqrt()
    torch.testing.assert_close(outputs, scaled.expand(2, 9, 3), rtol=1e-9, atol=1e-12)


def test_kept_in_the_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "config.toml").touch()
    folder._run = "own"
    forms = {
        "a": FORMS["kronecker"](normal(2, 2).square(), normal(3, 3).square()),
        "b": FORMS["full"](torch.eye(6).double(), torch.tensor([2, 3])),
        "c": FORMS["diagonal"](normal(2, 3).square()),
    }
    kept.keep(folder, 7, kept.Entry("hash", "kron", "probit", TAU, forms))
    found = kept.read(folder, 7)
    assert (found.parameters, found.kind, found.predictive) == ("hash", "kron", "probit")
    assert found.precision == TAU
    for name, of in forms.items():
        for part, value in of.tensors().items():
            assert torch.equal(found.curvatures[name].tensors()[part], value)
    assert kept.read(folder, 8) is None
    path = kept.path_of(folder, 7)
    folder._run = "other"
    with pytest.raises(DataError, match="another run or step"):
        kept.read(folder, 7)
    folder._run = "own"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="laplace --remove"):
        kept.read(folder, 7)
    assert kept.remove(folder) == 1
    assert kept.read(folder, 7) is None
    with pytest.raises(UsageError, match="has no Laplace posterior"):
        kept.remove(folder)


def test_best_precision_is_the_maximum_of_the_evidence():
    values, square = normal(50).square() * 10, 3.0
    found = best_precision(values, square)
    at = [log_evidence(0.0, values, square, found * f) for f in (0.99, 1, 1.01)]
    assert at[1] == max(at)
    assert not math.isclose(at[0], at[1], rel_tol=0, abs_tol=1e-6)
    assert effective(values, found) == pytest.approx(found * square)


def test_refusals():
    x = normal(2, 3)
    ends = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()
    for likelihood, network, kind, match in (
        (Gaussian(1.0), ends, "last", "not those of a last trainable nn.Linear"),
        (Gaussian(1.0), nn.Tanh(), "kron", "no trainable nn.Linear"),
        (Pixelwise(), ends, "kron", "Gauss-Newton matrix is known"),
        (Gaussian(1.0), ends, "full", "choose from last"),
        (Gaussian(1.0), nn.Linear(3, 4096).double(), "last", "choose --kind last_kron"),
    ):
        with pytest.raises(UsageError, match=match):
            GaussNewton(network, network, kind, likelihood, x)
    with pytest.raises(UsageError, match="probit is for labels"):
        check_probit(Gaussian(1.0))


def test_several_sets_of_weights_and_model_ranks_are_refused():
    """Before any data are read: not parts of a network, and not several sets of weights."""
    members = Ensemble(lambda s: nn.Linear(3, 2), 2)
    run = SimpleNamespace(
        method=members, config=SimpleNamespace(method=SimpleNamespace(name="ensemble"))
    )
    for ranks, match in ((2, r"set parallel\.model = 1"), (1, "but ensemble has 2; train with")):
        with pytest.raises(UsageError, match=match):
            kept.point_network(run, SimpleNamespace(model_size=ranks))


RUNS = """runs = {
    "classes": ("digits", "classification", "mean_field", "expected_nll", {}, {}),
    "series": ("entsoe", "regression", "ivon", "expected_nll", {},
               {"name": "gaussian", "std": 0.2}),
    "members": ("entsoe", "regression", "ensemble", "expected_nll", {},
                {"name": "gaussian", "std": 0.2}),
}
topology"""
COMMANDS = """
import sys
from pathlib import Path
from hpcsamp.cli import app
place, out = Path(sys.argv[1]), Path(sys.argv[2])
for name, kind, predictive in (("classes", "last", "samples"), ("series", "kron", "samples"),
                               ("classes", "diag", "probit")):
    run, file = str(place / name), str(out / f"{name}-{kind}")
    common = ["--set", sys.argv[3]]
    app(["laplace", run, "--kind", kind, "--predictive", predictive, "--json", file + "-fit.json",
         *common], standalone_mode=False)
    app(["evaluate", run, "--json", file + ".json", *common], standalone_mode=False)
run, file = str(place / "classes"), str(out / "trained.json")
if sys.argv[3:] == ["parallel.samples=node"]:  # on one rank: the rest does not depend on the grid
    import hpcsamp as hs
    app(["recalibrate", run, "--conformal", "none"], standalone_mode=False)
    app(["evaluate", run, "--json", str(out / "recalibrated.json")], standalone_mode=False)
    app(["predict", run, "--out", str(out / "p.h5")], standalone_mode=False)
    assert hs.load(run, device="cpu").method.probit
    app(["laplace", run, "--kind", "diag"], standalone_mode=False)  # draws, of the same parameters
    app(["evaluate", run, "--json", str(out / "others.json")], standalone_mode=False)
    (place / "classes" / "recalibration.json").unlink()
    from hpcsamp.report.build import build
    from hpcsamp.run.folder import RunFolder
    RunFolder(run).log("train", step=1, epoch=0, loss=1.0)
    fitted = build([run], out / "report")
    assert not any("evaluate" in note for note in fitted.notes), fitted.notes
    assert "<td>Laplace (diag, samples)</td>" in fitted.page.read_text()
app(["laplace", run, "--remove"], standalone_mode=False)
if sys.argv[3:] == ["parallel.samples=node"]:
    (note,) = [n for n in build([run], out / "report").notes if "evaluate" in n]
    assert "with the Laplace posterior removed by hpcsamp laplace --remove; run" in note
app(["evaluate", run, "--json", file, *common], standalone_mode=False)
if sys.argv[3:] == ["parallel.samples=node"]:
    assert not any("evaluate" in n for n in build([run], out / "report").notes)
"""


def test_any_grid_gives_the_same(script, commands, refusals, tmp_path, monkeypatch):
    from test_prediction import MAKE

    start, _, rest = MAKE.partition("sets = {")
    sets = (
        'sets = {"digits": synthetic("digits", 90), "entsoe": synthetic("entsoe", 90),}\nfor name,'
    )
    loop = MAKE.partition("}\nfor name,")[2].partition("runs = {")[0]
    rest = RUNS + rest.partition("}\nfor name,")[2].partition("}\ntopology")[2]
    code = f"import sys; sys.argv = ['', {str(tmp_path)!r}]\n{start}{sets}{loop}{rest}"
    done = script(1, code, timeout=120)
    assert done.code == 0, done.err
    results = []
    for ranks, samples in ((1, "node"), (3, '"world"'), (4, "2")):
        out = tmp_path / f"out-{ranks}"
        out.mkdir()
        given = ["", str(tmp_path), str(out), f"parallel.samples={samples}"]
        done = script(ranks, f"import sys; sys.argv = {given!r}\n{COMMANDS}", timeout=240)
        assert done.code == 0, done.err
        results.append({p.name: json.loads(p.read_text()) for p in sorted(out.glob("*.json"))})
    assert len(results[0]) == 9
    assert "laplace" not in results[0].pop("trained.json")
    stated = results[0]["classes-diag.json"]["laplace"]
    assert (stated["kind"], stated["predictive"]) == ("diag", "probit")
    recalibrated, others = (results[0].pop(f"{of}.json") for of in ("recalibrated", "others"))
    assert recalibrated["recalibration"]["used"] == "yes"
    assert "other parameters" in others["recalibration"]["used"]
    for other in results[1:]:
        for name, one in results[0].items():
            if name.endswith("-fit.json"):
                for key in ("prior_precision", "log_evidence", "effective_weights"):
                    assert other[name][key] == pytest.approx(one[key], rel=1e-10)
            else:
                assert one["laplace"]["prior_precision"] > 0
                assert other[name]["metrics"] == pytest.approx(one["metrics"], rel=1e-10, abs=1e-12)
    refused(commands, refusals, tmp_path, monkeypatch)


def refused(commands, refusals, place, monkeypatch):
    """Runs without a posterior of this kind: one line, and nothing is written."""
    from test_composite import CONFIG

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    composite_sets.make(place / "plants")
    (place / "c.toml").write_text(CONFIG)
    shutil.copy(place / "classes" / "checkpoints" / "step-00000003.pt", place / "copy.pt")
    done = commands(
        1, ["train", "c.toml", "-o", "several", "--set=training.steps=1"], cwd=place, timeout=120
    )
    assert done.code == 0, done.err
    cases = {
        "one input and one target": ["several"],
        "but ensemble has 5; train with method.samples = 1": ["members"],
        "was trained on dataset .*entsoe is": [
            "classes", "--set", f"data.path={place / 'entsoe'}"
        ],
        "only a checkpoint of the run folder": [
            "classes", "--checkpoint", "copy.pt"
        ],
        "--prior-precision 0.0 must be": ["classes", "--prior-precision", "0"],
        "probit is for labels": ["series", "--predictive", "probit"],
        "classes has no Laplace posterior": ["classes", "--remove"],
    }  # fmt: skip
    lines = [["laplace", *line] for line in cases.values()]
    for done, text in zip(refusals(2, *lines, cwd=place), cases, strict=True):
        assert done.code in (1, 2), (text, done.out)
        assert re.search(text, done.err), (text, done.err)
        assert len(done.err.strip().splitlines()) == 1, done.err
    assert not (place / "classes" / "laplace").exists()
