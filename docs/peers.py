"""Measure whether the gradients of other packages depend on how a step is divided over ranks.

    python docs/peers.py PACKAGE

runs in an environment that has the package (ENVIRONMENTS below) and prints one line per
measurement: the relative difference ``|g - g1| / |g1|`` of the gradient of all parameters (or of
their update) between one process that computes the whole step, and

    samples       two processes with half of the weight samples or ensemble members each
    items         two processes with half of the items each and all samples
    in parts      one process that evaluates the samples in two halves

by the package's own loss and its own way to distribute it, or torch's DistributedDataParallel where
it has none. Everything is in float64 on CPUs, over gloo (hpcsamp: MPI): 0 to 1e-15 is rounding.
Seeds are those that a user of the package would set; that is written in each line. Where members
are made outside of the loss, they are the same on every division, so that the loss alone is tested.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENTS = {
    "hpcsamp": "hpcsamp",
    "torch_blue": "torch_blue==1.1.0",
    "torch-uncertainty": "torch-uncertainty[cpu]==0.13.0",
    "ivon-opt": "ivon-opt==0.1.3",
    "numpyro": "numpyro==0.22.0 jax==0.10.2",
    "miles-credit": "miles-credit==2026.2.0",
    "anemoi-training": "anemoi-training==0.17.1 anemoi-models==0.19.0",
}
INPUTS, HIDDEN, OUTPUTS, ITEMS, SAMPLES = 8, 16, 3, 12, 4


def data() -> tuple[Any, Any]:
    """Inputs ``(ITEMS, INPUTS)`` and targets ``(ITEMS, OUTPUTS)``, float64."""
    draw = np.random.default_rng(1)
    return draw.standard_normal((ITEMS, INPUTS)), draw.standard_normal((ITEMS, OUTPUTS))


def tensors() -> tuple[Any, Any]:
    """The data as tensors."""
    import torch

    x, y = data()
    return torch.from_numpy(x), torch.from_numpy(y)


def seed(value: int) -> None:
    """Seed torch's global generator."""
    import torch

    torch.manual_seed(value)


def gradient(module: Any) -> np.ndarray:
    """Gradients of all parameters in one vector."""
    return np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])


def ddp(module: Any) -> Any:
    """The module with torch's own mean of gradients over ranks, if there are several."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module) if dist.is_initialized() else module


def halves(values: Any, rank: int, size: int) -> Any:
    """Equal share of a rank of the first dimension."""
    return values[rank * len(values) // size : (rank + 1) * len(values) // size]


def _process(rank: int, size: int, folder: str, work: Callable[[int, int], np.ndarray]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    np.save(f"{folder}/{rank}.npy", work(rank, size))
    dist.destroy_process_group()


def on(size: int, work: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Result of ``work(rank, size)`` on rank 0 of some new processes; it has to agree on all."""
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_process, (size, folder, work), nprocs=size)
        found = [np.load(f"{folder}/{rank}.npy") for rank in range(size)]
    assert all(np.allclose(found[0], other, rtol=1e-12, atol=0) for other in found)
    return found[0]


def difference(found: np.ndarray, whole: np.ndarray) -> float:
    """Relative difference of two vectors."""
    return float(np.linalg.norm(found - whole) / np.linalg.norm(whole))


def show(package: str, divided: str, how: str, value: float | str) -> None:
    """Print a measurement."""
    number = value if isinstance(value, str) else f"{value:.1e}"
    sys.stdout.write(f"{package:18} {divided:9} {number:>9}  {how}\n")
    sys.stdout.flush()


# -- Bayesian neural networks --------------------------------------------------------------------


def hpcsamp_gradient(loss: str, samples: int) -> np.ndarray:
    """Gradient of hpcsamp on the ranks of this job."""
    import torch

    import hpcsamp as hs

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUTPUTS)
    )
    topology = hs.init(samples="world")
    collectives = hs.choose(topology)
    method = hs.MeanField(net, prior_std=1.0, initial_std=0.1, seed=1)
    likelihood = {} if loss == "crps" else {"std": 0.5}
    elbo = hs.losses.ELBO(
        hs.losses.make(loss, "regression", likelihood=likelihood), ITEMS, collectives
    )
    x, y = tensors()
    flat = hs.collectives.FlatGradient(method.parameters())
    elbo(method, x, y, samples=samples, step=0).backward()
    collectives.reduce_gradient_(flat.collect())
    return flat.flat.numpy()


def hpcsamp(rank: str | None = None) -> None:
    """hpcsamp on 1, 2 and 3 ranks (the last with 2, 1 and 1 samples)."""
    for loss in ("expected_nll", "predictive_nll", "crps"):
        found = {}
        for ranks in (1, 2, 3):
            with tempfile.TemporaryDirectory() as folder:
                file = f"{folder}/gradient.npy"
                start = ["mpirun", "-n", str(ranks), sys.executable, __file__, "hpcsamp"]
                subprocess.run([*start, "--rank-of", loss, file], check=True, timeout=300)
                found[ranks] = np.load(file)
        for ranks in (2, 3):
            how = f"{loss}, {ranks} ranks" + " (2, 1 and 1 samples)" * (ranks == 3)
            show("hpcsamp", "samples", how, difference(found[ranks], found[1]))


def torch_blue_gradient(rank: int, size: int, divide: str, first: int) -> np.ndarray:
    """Gradient of torch_blue's ELBO for classes, as in its documentation."""
    import torch
    from torch_blue import vi
    from torch_blue.vi.distributions import Categorical

    torch.set_default_dtype(torch.float64)
    seed(1)
    net = vi.VISequential(
        vi.VILinear(INPUTS, HIDDEN), torch.nn.Tanh(), vi.VILinear(HIDDEN, OUTPUTS)
    )
    net.return_log_probs = True
    loss = vi.KullbackLeiblerLoss(Categorical(), dataset_size=ITEMS)
    x, y = tensors()
    y = y.argmax(1)
    if divide == "items":
        x, y = halves(x, rank, size), halves(y, rank, size)
    seed(first)
    model = ddp(net)
    if divide == "parts":
        for _ in range(2):
            (loss(model(x, samples=SAMPLES // 2), y) / 2).backward()
    else:
        samples = SAMPLES // size if divide == "samples" else SAMPLES
        loss(model(x, samples=samples), y).backward()
    return gradient(net)


def torch_blue() -> None:
    """torch_blue under torch's DDP, which its documentation does not mention."""
    whole = torch_blue_gradient(0, 1, "", 7)
    for divide, how, start in (
        ("samples", "DDP, seed + rank", lambda rank: 7 + rank),
        ("items", "DDP, one seed on all ranks", lambda rank: 7),
    ):
        found = on(2, Job(torch_blue_gradient, divide, start))
        show("torch_blue", divide, how, difference(found, whole))
    found = torch_blue_gradient(0, 1, "parts", 7)
    show("torch_blue", "in parts", "two backward passes, one seed", difference(found, whole))


class Job:
    """``function(rank, size, divide, seed)`` with the seed of a rank, for another process."""

    def __init__(self, function: Callable[..., np.ndarray], divide: str, start: Callable) -> None:
        self.function, self.divide = function, divide
        self.seeds = [start(rank) for rank in range(2)]

    def __call__(self, rank: int, size: int) -> np.ndarray:
        """Run it."""
        return self.function(rank, size, self.divide, self.seeds[rank])


def torch_uncertainty_gradient(rank: int, size: int, divide: str, first: int) -> np.ndarray:
    """Gradient of torch-uncertainty's ELBOLoss with its BayesLinear layers."""
    import torch
    from torch_uncertainty.layers.bayesian import BayesLinear
    from torch_uncertainty.losses import ELBOLoss

    torch.set_default_dtype(torch.float64)
    seed(1)
    net = torch.nn.Sequential(
        BayesLinear(INPUTS, HIDDEN, sigma_init=-2.0),
        torch.nn.Tanh(),
        BayesLinear(HIDDEN, OUTPUTS, sigma_init=-2.0),
    )
    x, y = tensors()
    if divide == "items":
        x, y = halves(x, rank, size), halves(y, rank, size)
    seed(first)
    samples = SAMPLES // size if divide == "samples" else SAMPLES
    samples = SAMPLES // 2 if divide == "parts" else samples
    loss = ELBOLoss(net, torch.nn.MSELoss(), 1 / ITEMS, samples)
    if size == 1:
        for _ in range(2 if divide == "parts" else 1):
            (loss(x, y) / (2 if divide == "parts" else 1)).backward()
        return gradient(net)
    wrapped = ddp(Whole(loss))  # Lightning wraps the routine, which contains the loss
    wrapped(x, y).backward()
    return gradient(net)


def Whole(loss: Any) -> Any:  # noqa: N802
    """A module whose forward pass is the loss, as a Lightning routine is one."""
    import torch

    class Routine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, x: Any, y: Any) -> Any:
            return self.loss(x, y)

    return Routine()


def torch_uncertainty() -> None:
    """torch-uncertainty: DDP as Lightning starts it, which seeds all ranks alike."""
    whole = torch_uncertainty_gradient(0, 1, "", 7)
    for divide, how, start in (
        ("items", "DDP, one seed on all ranks (Lightning's default)", lambda rank: 7),
        ("items", "DDP, seed + rank", lambda rank: 7 + rank),
        ("samples", "DDP, seed + rank", lambda rank: 7 + rank),
    ):
        found = on(2, Job(torch_uncertainty_gradient, divide, start))
        show("torch-uncertainty", divide, how, difference(found, whole))
    found = torch_uncertainty_gradient(0, 1, "parts", 7)
    show("torch-uncertainty", "in parts", "two backward passes, one seed", difference(found, whole))


def ivon_update(rank: int, size: int, divide: str, first: int) -> np.ndarray:
    """Change of the parameters in a step of IVON with ``sync=True``."""
    import ivon
    import torch

    torch.set_default_dtype(torch.float64)
    seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUTPUTS)
    )
    start = torch.cat([p.detach().flatten() for p in net.parameters()])
    optimizer = ivon.IVON(net.parameters(), lr=0.1, ess=ITEMS, sync=size > 1)
    x, y = tensors()
    if divide == "items":
        x, y = halves(x, rank, size), halves(y, rank, size)
    seed(first)
    for _ in range(SAMPLES // size if divide == "samples" else SAMPLES):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
    optimizer.step()
    end = torch.cat([p.detach().flatten() for p in net.parameters()])
    return (end - start).numpy()


def ivon() -> None:
    """IVON's optimiser, whose ``sync`` averages over ranks."""
    whole = ivon_update(0, 1, "", 7)
    for divide, how, start in (
        ("items", "sync=True, seed + rank; the update", lambda rank: 7 + rank),
        ("items", "sync=True, one seed on all ranks; the update", lambda rank: 7),
        ("samples", "sync=True, seed + rank; the update", lambda rank: 7 + rank),
    ):
        found = on(2, Job(ivon_update, divide, start))
        show("ivon-opt", divide, how, difference(found, whole))


def numpyro() -> None:
    """NumPyro's SVI: particles on two devices of one process, and vectorised or in a loop."""
    os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    import jax
    import numpyro as ppl
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO, init_to_sample
    from numpyro.infer.autoguide import AutoNormal

    jax.config.update("jax_enable_x64", True)
    x, y = data()

    def model(x: Any, y: Any) -> None:
        a = ppl.sample("a", dist.Normal(0.0, 1.0).expand([INPUTS, HIDDEN]).to_event(2))
        b = ppl.sample("b", dist.Normal(0.0, 1.0).expand([HIDDEN, OUTPUTS]).to_event(2))
        with ppl.plate("items", len(x)):
            ppl.sample("y", dist.Normal(jax.numpy.tanh(x @ a) @ b, 0.5).to_event(1), obs=y)

    def found(particles: int, vectorize: Any) -> np.ndarray:
        guide = AutoNormal(model, init_loc_fn=init_to_sample(), init_scale=0.1)
        elbo = Trace_ELBO(num_particles=particles, vectorize_particles=vectorize)
        svi = SVI(model, guide, ppl.optim.Adam(1e-3), elbo)
        params = svi.get_params(svi.init(jax.random.key(1), x, y))
        slopes = jax.grad(lambda p: elbo.loss(jax.random.key(2), p, model, guide, x, y))(params)
        return np.concatenate([np.ravel(slopes[name]) for name in sorted(slopes)])

    parallel = difference(found(2, lambda f, keys: jax.pmap(f)(keys)), found(2, True))
    show("numpyro", "samples", "2 particles by pmap on 2 devices of one process", parallel)
    loop = difference(found(SAMPLES, False), found(SAMPLES, True))
    show("numpyro", "in parts", "particles one after the other", loop)


# -- ensembles of weather models -----------------------------------------------------------------


def members(rank: int, size: int, count: int) -> tuple[Any, Any, Any]:
    """A network and the perturbed inputs ``(count / size, ITEMS, INPUTS)`` of a rank's members."""
    import torch

    torch.set_default_dtype(torch.float64)
    seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUTPUTS)
    )
    x, y = tensors()
    draw = np.random.default_rng(2)
    noise = torch.from_numpy(draw.standard_normal((count, ITEMS, INPUTS)))
    return net, halves(x + 0.3 * noise, rank, size), y


def fair_crps(outputs: Any, y: Any, alpha: float = 1.0) -> Any:
    """Almost fair CRPS of members in the first dimension, mean over items and outputs."""
    count = len(outputs)
    pairs = (outputs[:, None] - outputs[None]).abs().sum((0, 1))
    spread = pairs * (alpha / (count * (count - 1)) + (1 - alpha) / count**2) / 2
    return ((outputs - y).abs().mean(0) - spread).mean()


def sequential(count: int, alpha: float = 1.0) -> np.ndarray:
    """Gradient of the CRPS of all members in one process."""
    net, x, y = members(0, 1, count)
    fair_crps(net(x), y, alpha).backward()
    return gradient(net)


def credit_ring(rank: int, size: int) -> np.ndarray:
    """miles-credit's ring CRPS: one member per rank, then DDP's mean."""
    from credit.losses.crps import ring_crps_loss

    net, x, y = members(rank, size, size)
    model = ddp(net)  # has to live until the backward pass
    ring_crps_loss(model(x[0]), y).backward()
    return gradient(net)


def credit() -> None:
    """miles-credit, whose comment says that DDP's mean completes the gradient."""
    for ranks in (2, 4):
        found, whole = on(ranks, credit_ring), sequential(ranks)
        factor = float(found @ whole / (whole @ whole))
        rest = difference(found / factor, whole)
        how = f"ring CRPS and DDP, {ranks} ranks: {factor:.3f} of the gradient (rest {rest:.0e})"
        show("miles-credit", "samples", how, difference(found, whole))


def anemoi_loss(outputs: Any, y: Any) -> Any:
    """anemoi's almost fair CRPS (alpha 0.95), mean over items and outputs."""
    from anemoi.training.losses.kcrps import CRPS

    loss = CRPS(alpha=0.95)
    predicted = outputs.movedim(0, 1)[:, None, :, None, :]  # batch, step, member, point, variable
    return loss(predicted, y[:, None, None, None, :], squash_mode="avg")


def anemoi_gradient(rank: int, size: int) -> np.ndarray:
    """Members gathered over ranks, gradients scaled by its hooks where it has them, DDP's mean."""
    import torch.distributed as dist
    from anemoi.models.distributed.graph import gather_tensor

    net, x, y = members(rank, size, SAMPLES)
    model = ddp(net)  # has to live until the backward pass
    own = model(x)
    every = gather_tensor(own.clone(), 0, [len(own)] * size, dist.group.WORLD)
    anemoi_loss(every, y).backward()
    return gradient(net)


def anemoi() -> None:
    """anemoi-training's ensemble: gather, CRPS, DDP, with a model on one rank."""
    net, x, y = members(0, 1, SAMPLES)
    anemoi_loss(net(x), y).backward()
    whole, found = gradient(net), on(2, anemoi_gradient)
    factor = float(found @ whole / (whole @ whole))
    rest = difference(found / factor, whole)
    how = f"gather, CRPS and DDP, 2 ranks: {factor:.3f} of the gradient (rest {rest:.0e})"
    show("anemoi-training", "samples", how, difference(found, whole))


PEERS = {
    "hpcsamp": hpcsamp,
    "torch_blue": torch_blue,
    "torch-uncertainty": torch_uncertainty,
    "ivon-opt": ivon,
    "numpyro": numpyro,
    "miles-credit": credit,
    "anemoi-training": anemoi,
}


def main() -> None:
    """Measure one package."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", choices=PEERS)
    parser.add_argument("--rank-of", nargs=2, metavar=("LOSS", "FILE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank_of:
        loss, file = chosen.rank_of
        found = hpcsamp_gradient(loss, SAMPLES)
        if not Path(file).exists():  # the same on every rank
            np.save(file, found)
        return
    try:
        sys.stdout.write(f"{chosen.package} {version(chosen.package)}\n")
    except PackageNotFoundError:
        sys.exit(f"{chosen.package} is not installed: pip install {ENVIRONMENTS[chosen.package]}")
    PEERS[chosen.package]()


if __name__ == "__main__":
    main()
