"""Complex parameters: every method trains them like real and imaginary parts."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

import hpcsamp as hs
from hpcsamp.collectives import distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import SWAG, Chains, Ensemble, LastLayer, MCDropout, MeanField

S, STEPS, ITEMS = 3, 4, 1000


def pair(seed: int = 1, even: bool = False) -> tuple[nn.Module, nn.Module]:
    """Return the same function twice: with a complex parameter, and with parameters for its parts.

    Of odd size; or of even size, where rows of complex weights have no number at their end that is
    none of a weight, so that as many numbers are drawn.
    """
    real, other = zoo.make("fourier_operator", seed)[0], zoo.make("complex_weights")[0]
    values = real.state_dict()
    values["weight"] = torch.view_as_complex(values["weight"])
    other.load_state_dict(values)
    for network in (other, real) if even else ():
        network.head.bias.requires_grad_(False)
    return other, real


def members(kind, which, even=True, **arguments):
    return kind(lambda s: pair(s + 1, even)[which], S, prior_std=1.0, seed=1, **arguments)


METHODS = {
    "mean_field": lambda w: MeanField(pair()[w], initial_std=0.05, seed=1),
    "in one pass": lambda w: MeanField(pair()[w], initial_std=0.05, seed=1, samples_per_pass=3),
    "deterministic": lambda w: MeanField(pair()[w], bayesian=["lift.*"], seed=1),
    "ensemble": lambda w: members(Ensemble, w, even=False, samples_per_pass=3),
    "swag": lambda w: members(SWAG, w, start=0.0, every=1, rank=2),
    "sgld": lambda w: members(Chains, w, cycles=1, snapshots=2, exploration=0.0),
    "mc_dropout": lambda w: MCDropout(pair()[w], rate=0.2, prior_std=0.5, seed=1),
    "last_layer": lambda w: LastLayer(pair()[w], seed=1),
}


def trained(kind: str, which: int):
    method = METHODS[kind](which)
    c = hs.choose(hs.init("none"), "mpi")
    x, y = zoo.make("complex_weights")[1], torch.arange(zoo.ITEMS) % zoo.OUTPUTS
    method.begin(ITEMS, STEPS, STEPS)
    if kind == "sgld":
        optimizer = method.optimizers["SGLD"](method.parameters(), 0.01)
    else:
        optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    distribute(optimizer, c, method, clip=0.5)
    loss, losses = ELBO(ExpectedNLL(Categorical()), ITEMS, c), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(method, x, y, samples=S)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    with torch.no_grad(), method.predicting():
        count = method.prediction_samples(None)
        return losses, method(x, samples=method.prediction_share(count, 1, 0)), method


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_trains_real_and_imaginary_parts(kind):
    losses, outputs, method = trained(kind, 0)
    expected, truth, _ = trained(kind, 1)
    assert losses == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(outputs, truth, rtol=1e-10, atol=1e-12)
    again, fresh = METHODS[kind](0), METHODS[kind](0)
    again.load_state_dict(method.state_dict())
    for shown, same, other in zip(method.networks, again.networks, fresh.networks, strict=True):
        assert shown.weight.dtype == torch.complex128
        assert torch.equal(shown.weight, same.weight)  # the module's own is what was trained
        assert not torch.equal(shown.weight, other.weight)


class Odd(nn.Module):
    """An odd number of real weights before and between complex ones, one of them in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3))
        self.spin = nn.Parameter(torch.randn((), dtype=torch.complex64))
        self.shift = nn.Parameter(torch.randn(1))
        self.mix = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.register_buffer("turn", torch.tensor(0.6 + 0.8j))

    def forward(self, x):
        y = (x * self.first).to(self.mix.dtype) @ self.mix * (self.spin.conj() * self.turn)
        return y.real + y.imag.square() + self.shift


def test_gradients_are_those_of_plain_torch_for_each_strategy():
    torch.manual_seed(3)
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    for per_pass in (1, 4):
        method = MeanField(Odd(), initial_std=0.1, seed=2, samples_per_pass=per_pass).double()
        outputs = method(x, samples=range(4), step=0)
        (outputs - y).square().mean().backward()
        assert method.variables.random.names == ["spin", "mix", "first", "shift"]
        means = torch.zeros_like(method.mean)
        for row in method.draw(0, range(4)).detach():
            named = method.variables.random.named(row).items()
            w = {n: v.clone().requires_grad_() for n, v in named}
            mix, spin = (torch.view_as_complex(w[n]) for n in ("mix", "spin"))
            z = ((x * w["first"]).to(mix.dtype) @ mix) * (
                spin.conj() * Odd().turn.to(torch.complex128)
            )
            (z.real + z.imag.square() + w["shift"] - y).square().mean().div(4).backward()
            means += method.variables.random.flatten({n: v.grad for n, v in w.items()})
        torch.testing.assert_close(method.mean.grad, means, rtol=1e-10, atol=1e-12)


def test_fit_load_and_samples_are_complex(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(30, 3), torch.randn(30, 2)
    for name in ("mean_field", "mc_dropout"):
        more = {"method.rate": 0.1} if name == "mc_dropout" else {}
        network = nn.Sequential(Odd(), nn.Linear(2, 2), nn.Linear(2, 2))
        posterior = hs.fit(
            network, (x, y), method=name, epochs=2, samples=2, quiet=True,
            output=tmp_path / name, **{"training.precision": "float64", **more},
        )  # fmt: skip
        draws = posterior.sample(2)
        mix = draws["network.0.mix"]
        assert mix.dtype == torch.complex128
        assert mix.shape == (2, 3, 2)
        assert (mix.imag != 0).all()
        if name == "mean_field":
            own = dict(posterior.module(1).named_parameters())
            assert torch.equal(own["network.0.mix"], mix[1])
            assert not torch.equal(*mix)


def test_a_type_that_complex_numbers_do_not_have_is_refused():
    with pytest.raises(UsageError, match=r"complex parameters and buffers cannot be .*bfloat16"):
        MeanField(Odd()).bfloat16()
