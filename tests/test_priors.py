"""Which weights are random, and their priors: by patterns, from torch_blue, by a density."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch_blue import vi
from torch_blue.vi.distributions import BasicQuietPrior, MeanFieldNormal, Prior

from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import MeanField
from hpcsamp.models import LearnedNoise

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 3


def net():
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
    return nn.ModuleDict({"body": body, "head": nn.Linear(3, 3)}).double()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = net()
        self.body, self.head = self.parts["body"], self.parts["head"]
        del self.parts

    def forward(self, x):
        return self.head(self.body(x))


def test_random_weights_by_patterns():
    method = MeanField(Net(), bayesian=["head.*", "body.0.weight"])
    assert method.variables.random.names == ["body.0.weight", "head.weight", "head.bias"]
    same = MeanField(Net(), bayesian=lambda n: n.startswith("head") or n == "body.0.weight")
    assert method.variables.random.names == same.variables.random.names
    assert torch.equal(method(X, range(2)), same(X, range(2)))
    inside = MeanField(LearnedNoise(Net(), 1.0), bayesian=["head.*"])  # as without the wrapper
    assert inside.variables.random.names == ["network.head.weight", "network.head.bias"]
    tied = Net()
    tied.again = tied.head
    assert MeanField(tied, bayesian=["again.weight"]).variables.random.names == ["head.weight"]


def test_normal_priors_by_patterns_have_the_kl_by_formula():
    rules = [
        {"pattern": "*", "std": 0.7},
        {"pattern": ["head.weight", "body.3.*"], "mean": 0.3, "std": 2.0},
        {"pattern": "head.bias", "std": math.inf},
    ]
    method = MeanField(Net(), priors=rules, initial_std=0.1)
    expected = torch.zeros((), dtype=torch.float64)
    for v in method.variables.random.variables:
        mean, log_std = method.mean[v.place], method.log_std[v.place]
        posterior = torch.distributions.Normal(mean, log_std.exp())
        if v.name == "head.bias":
            expected = expected - (log_std + 0.5).sum()
            continue
        told = (0.3, 2.0) if v.name in ("head.weight", "body.3.weight", "body.3.bias") else (0, 0.7)
        prior = torch.distributions.Normal(*(torch.tensor(t, dtype=torch.float64) for t in told))
        expected = expected + torch.distributions.kl_divergence(posterior, prior).sum()
    expected = expected.item()
    assert method.penalty().item() == pytest.approx(expected, rel=1e-10)
    shares = sum(method.penalty(part, 3).item() for part in range(3))
    assert shares == pytest.approx(expected, rel=1e-10)


def test_a_prior_scaled_by_width_has_the_fan_in_of_each_layer():
    inputs = {"body.0": 4, "body.3": 5, "head": 3}
    rules = [
        {"pattern": f"{layer}.*", "mean": 0.1, "std": 0.7 / n**0.5} for layer, n in inputs.items()
    ]
    scaled = MeanField(Net(), prior="scaled", prior_mean=0.1, prior_std=0.7)
    wanted = MeanField(Net(), priors=rules)
    for name, found in scaled.penalties().items():
        assert found == pytest.approx(wanted.penalties()[name]), name
    convolution = MeanField(nn.Conv2d(2, 3, 3), prior="scaled", prior_std=1.0)
    variable = convolution.variables.random.variables[0]
    assert variable.prior == (0.0, pytest.approx(-0.5 * math.log(18)))


def learnt(**others):
    """A posterior whose means and standard deviations differ in each layer."""
    method = MeanField(Net(), prior="empirical_bayes", prior_mean=0.2, **others)
    generator = torch.Generator().manual_seed(2)
    for p in (method.mean, method.log_std):
        scale = torch.linspace(0.3, 2.0, p.numel(), dtype=torch.float64)
        p.data.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return method


def test_learnt_priors_are_where_the_elbo_is_largest():
    """Against a search over the standard deviation of each layer; a rule keeps its own prior."""
    rule = {"pattern": "body.3.bias", "std": 0.4}
    method = learnt(priors=[rule])
    normal, best = torch.distributions.Normal, 0.0
    for layer in ("body.0.", "body.3.weight", "head."):
        variables = method.variables.random.variables
        places = [v.place for v in variables if v.name.startswith(layer)]
        own = normal(
            torch.cat([method.mean[p].detach() for p in places]),
            torch.cat([method.log_std[p].detach().exp() for p in places]),
        )
        found = minimize_scalar(
            lambda s, own=own: float(
                torch.distributions.kl_divergence(own, normal(0.2, math.exp(s))).sum()
            ),
            bounds=(-3, 5), method="bounded", options={"xatol": 1e-8},
        )  # fmt: skip
        best += found.fun
    best += learnt(priors=[rule]).penalties()["body.3.bias"][1]
    assert method.penalty().item() == pytest.approx(best, rel=1e-9)
    assert sum(kl for _, kl in method.penalties().values()) == pytest.approx(best, rel=1e-9)
    draws = method.log_ratio(range(4000), 0)
    assert draws.mean().item() == pytest.approx(best, abs=4 * draws.std().item() / 4000**0.5)


def test_gradient_of_the_kl_includes_that_of_the_learnt_priors():
    method = learnt()
    total = torch.zeros((), dtype=torch.float64)
    for layer in ("body.0", "body.3", "head"):
        kept = [v.place for v in method.variables.random.variables if v.name.startswith(layer)]
        mean = torch.cat([method.mean[p] for p in kept])
        log_std = torch.cat([method.log_std[p] for p in kept])
        variance = ((mean - 0.2).square() + (2 * log_std).exp()).mean()  # the KL at the optimum
        total = total + 0.5 * len(mean) * variance.log() - log_std.sum()
    wanted = torch.autograd.grad(total, [method.mean, method.log_std])
    for part in range(3):
        method.penalty(part, 3).backward()
    torch.testing.assert_close(method.mean.grad, wanted[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(method.log_std.grad, wanted[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prior": "scald"}, ["method.prior = 'scald'", "'scaled'", "empirical_bayes"]),
        ({"bayesian": ["hed.*"]}, ["method.bayesian: 'hed.*' matches no parameter", "head"]),
        ({"bayesian": "head.*"}, ["method.bayesian = 'head.*'", "['head.*']"]),
        ({"priors": [{"pattern": "hed.*", "std": 1}]}, ["method.priors[0].pattern", "'hed.*'"]),
        ({"priors": [{"std": 1.0}]}, ["method.priors[0]", "pattern"]),
        ({"priors": [{"pattern": "*", "std": -1}]}, ["method.priors[0].std = -1", "greater"]),
        ({"priors": [{"pattern": "*"}]}, ["method.priors[0].std = None", "a number"]),
        ({"priors": [{"pattern": "*", "std": 1, "men": 2}]}, ["'method.priors[0].men'", "'mean'"]),
        ({"priors": [{"pattern": "body.1.*", "std": 1}]}, ["body.1.*", "method.bayesian"]),
        ({"priors": [{"pattern": "*", "name": "torch.distributions:Lapace"}]}, ["'Laplace'"]),
        ({"priors": [{"pattern": "*", "name": "torch.distributions:Laplace"}]}, ["loc"]),
        ({"priors": [{"pattern": "*", "name": "math:pow"}]}, ["math:pow"]),
    ],
)
def test_wrong_patterns_and_priors_are_one_line(arguments, words):
    with pytest.raises(UsageError) as e:
        MeanField(Net(), **arguments)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


class HeavyTailed(Prior):
    """torch_blue's interface of priors, for Student's t with three degrees of freedom."""

    distribution_parameters = ("loc", "log_scale")

    def __init__(self):
        super().__init__()
        self.loc, self.log_scale = torch.tensor(0.0), torch.tensor(-1.0)

    def log_prob(self, sample, parameters):
        return torch.distributions.StudentT(3.0, parameters[0], parameters[1].exp()).log_prob(
            sample
        )


class Wiggly:
    """A prior of the user's own."""

    def log_prob(self, weights):
        return -weights.abs() - 0.1 * weights.cos()


def vi_net(prior):
    torch.manual_seed(3)
    return nn.Sequential(vi.VILinear(4, 5, prior=prior), nn.Tanh(), nn.Linear(5, 3)).double()


DENSITIES = [
    (lambda: MeanField(vi_net(HeavyTailed())), lambda w, m: HeavyTailed().prior_log_prob(w)),
    (
        lambda: MeanField(vi_net(BasicQuietPrior())),
        lambda w, m: BasicQuietPrior().prior_log_prob(w, (m,)),
    ),
    (
        lambda: MeanField(nn.Linear(4, 5).double(), priors=[{"pattern": "*", "name": Wiggly()}]),
        lambda w, m: Wiggly().log_prob(w),
    ),
    (
        lambda: MeanField(
            nn.Linear(4, 5).double(),
            priors=[{"pattern": "weight", "name": "torch.distributions:Laplace", "loc": 0.0,
                     "scale": 0.5}, {"pattern": "bias", "std": 0.2}],
        ),
        None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "log_prior"), DENSITIES)
def test_priors_known_by_their_density_have_a_monte_carlo_kl(make, log_prior):
    method = make()
    with pytest.raises(UsageError, match=r'no closed form: set loss.kl = "monte_carlo"'):
        method.penalty()
    ratio = method.log_ratio(range(3), step=4)
    std = method.log_std.exp()
    expected = []
    for s in range(3):
        w = method.mean + std * method.noise(4, range(s, s + 1))[0]
        q = torch.distributions.Normal(method.mean, std).log_prob(w).sum()
        for v in method.variables.random.variables:
            if log_prior is None:
                laplace, normal = torch.distributions.Laplace(0, 0.5), torch.distributions.Normal
                prior = (
                    laplace
                    if v.name == "weight"
                    else normal(*torch.tensor([0, 0.2], dtype=torch.float64))
                )
                q = q - prior.log_prob(w[v.place]).sum()
            else:
                q = q - log_prior(w[v.place], method.mean[v.place]).sum()
        expected.append(q)
    truth = torch.stack(expected)
    assert torch.allclose(ratio, truth, rtol=1e-9)
    weights = torch.tensor([1.0, -2.0, 0.5]).double()
    for got, want in zip(
        torch.autograd.grad((ratio * weights).sum(), [method.mean, method.log_std]),
        torch.autograd.grad((truth * weights).sum(), [method.mean, method.log_std]),
        strict=True,
    ):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


def test_a_density_trains_by_monte_carlo_and_says_so_without():
    method = MeanField(vi_net(HeavyTailed()), seed=2)
    data = ExpectedNLL(Categorical())
    with pytest.raises(UsageError, match=r"0.weight has the prior HeavyTailed.*monte_carlo"):
        ELBO(data, 6)(method, X, Y, samples=2)
    loss = ELBO(data, 6, kl="monte_carlo")
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    values = []
    for _ in range(40):
        values.append(loss(method, X, Y, samples=4))
        values[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step += 1
    assert float(values[-1].detach()) < float(values[0].detach()) - 0.2


def test_plain_layers_beside_torch_blues_are_random_if_named():
    mixed = MeanField(vi_net(MeanFieldNormal(0.0, 0.0)), seed=5)
    assert mixed.variables.deterministic.names == ["2.weight", "2.bias"]
    both = MeanField(
        vi_net(MeanFieldNormal(0.0, 0.0)), seed=5, bayesian=["2.weight"], prior_std=0.5,
        initial_std=0.3, priors=[{"pattern": "2.*", "mean": 0.1, "std": 0.4}],
    )  # fmt: skip
    assert both.variables.random.names == ["0.weight", "0.bias", "2.weight"]
    last = both.variables.random.variables[-1]
    assert last.prior == (0.1, math.log(0.4))
    assert torch.allclose(both.log_std[last.place].detach().exp(), torch.tensor(0.3).double())
    weights = both.variables.random.named(both.draw(0, range(3)))
    hidden = torch.tanh(
        torch.einsum("soi,bi->sbo", weights["0.weight"], X) + weights["0.bias"][:, None]
    )
    expected = torch.einsum("soi,sbi->sbo", weights["2.weight"], hidden) + both.fixed
    assert torch.allclose(both(X, range(3), step=0), expected, rtol=1e-10)
