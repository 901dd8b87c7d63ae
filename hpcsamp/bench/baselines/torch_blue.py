"""torch_blue as in its documentation: a converted module, all samples vectorised with vmap.

The fused CPU kernel of ``scaled_dot_product_attention`` has no batching rule: under vmap it runs
sample by sample in a slow loop, with a warning. The variants ``..._math`` use plain matrix products
instead, which vmap can vectorise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hpcsamp.bench.baselines import feed
from hpcsamp.bench.baselines.network import Training, network, optimizer
from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.run.kind import kind_of


def monte_carlo(config: RunConfig, topology: Topology) -> Training:
    """torch_blue, all samples vectorised, Monte Carlo KL (its default)."""
    return _step(config, topology, analytic=False)


def by_products(config: RunConfig, topology: Topology) -> Training:
    """torch_blue with Monte Carlo KL and an implementation of attention that vmap can vectorise."""
    return _step(config, topology, analytic=False, math=True)


def analytic(config: RunConfig, topology: Topology) -> Training:
    """torch_blue, all samples vectorised, analytic KL."""
    return _step(config, topology, analytic=True)


def one_by_one(config: RunConfig, topology: Topology) -> Training:
    """torch_blue, one sample at a time with gradients added up, Monte Carlo KL."""
    net = converted(config, topology.device)
    loss = likelihood_loss(config)
    update = optimizer(config, net.parameters())
    batches = feed.batches(config, topology.device)

    def step() -> None:
        x, y = next(batches)
        for _ in range(config.method.samples):
            with calling(math=False):
                (loss(net(x, samples=1), y) / config.method.samples).backward()
        update.step()
        update.zero_grad()

    return Training(net, step)


def converted(config: RunConfig, device: torch.device) -> nn.Module:
    """Convert the network of the configuration to a torch_blue module.

    Raises
    ------
    UsageError
        If torch_blue does not implement the method.
    """
    from torch_blue.vi.distributions import MeanFieldNormal
    from torch_blue.vi.utils.convert import convert_to_vimodule

    if config.method.name != "mean_field":
        raise UsageError(f"torch_blue implements mean-field VI, not method {config.method.name!r}")
    net = network(config, device)
    prior = MeanFieldNormal(0.0, float(config.method.arguments.get("prior_std", 0.2)))
    convert_to_vimodule(net, prior=prior)
    return net.to(device)


def likelihood_loss(config: RunConfig) -> nn.Module:
    """Return torch_blue's negative ELBO with Monte Carlo KL."""
    from torch_blue.vi import KullbackLeiblerLoss

    made: nn.Module = KullbackLeiblerLoss(
        _predictive(config), dataset_size=feed.size(config.data.path)
    )
    return made


@contextmanager
def calling(math: bool) -> Iterator[None]:
    """Suppress warnings of missing vmap rules; ``math``: use the attention that has such a rule."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH) if math else nullcontext():
        warnings.simplefilter("ignore")
        yield


def _predictive(config: RunConfig) -> object:
    from torch_blue.vi.distributions import Categorical, MeanFieldNormal

    return Categorical() if kind_of(config) == "classification" else MeanFieldNormal()


def _step(config: RunConfig, topology: Topology, analytic: bool, math: bool = False) -> Training:
    net = converted(config, topology.device)
    loss: Callable[[Tensor, Tensor], Tensor]
    if analytic:
        from torch_blue.vi import AnalyticalKullbackLeiblerLoss

        items = feed.size(config.data.path)
        loss = AnalyticalKullbackLeiblerLoss(net, _predictive(config), dataset_size=items)
    else:
        loss = likelihood_loss(config)
    update = optimizer(config, net.parameters())
    batches = feed.batches(config, topology.device)

    def step() -> None:
        x, y = next(batches)
        with calling(math):
            loss(net(x, samples=config.method.samples), y).backward()
        update.step()
        update.zero_grad()

    return Training(net, step)
