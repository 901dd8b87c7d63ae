"""Training step of NumPyro's stochastic variational inference, written as a careful user would.

``python -I svi.py CASE-AS-JSON`` runs in the environment of :mod:`hpcsamp.bench.peer.environment`.
It does not import hpcsamp, and answers commands like :mod:`hpcsamp.bench.worker`: ``round`` (time
some steps), ``draws`` (a loss and the weights it was computed from), ``end``.

Every weight has its own normal distribution (AutoNormal), all samples are vectorised
(``vectorize_particles=True``), and an update with Adam is one compiled function. The batch is on
the device.
"""

import json
import os
import resource
import sys
import time
from itertools import pairwise
from typing import Any

MARK = "@hpcsamp "


class Inference:
    """A network that is trained by stochastic variational inference.

    Parameters
    ----------
    case
        The fields of :class:`hpcsamp.bench.peer.cases.Case`, the number of training ``items``, and
        ``data``, an ``.npz`` file with the batch ``x`` and ``y``.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        import jax
        import numpy as np
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO, init_to_sample
        from numpyro.infer.autoguide import AutoNormal

        self.case = case
        with np.load(case["data"]) as arrays:
            self.batch = jax.device_put((arrays["x"], arrays["y"]))
        guide = AutoNormal(self.model, init_loc_fn=init_to_sample(), init_scale=case["initial_std"])
        elbo = Trace_ELBO(num_particles=case["samples"], vectorize_particles=True)
        self.svi = SVI(self.model, guide, numpyro.optim.Adam(case["lr"]), elbo)
        self.state = self.svi.init(jax.random.key(1), *self.batch)
        self.update = jax.jit(self.svi.update)

    def model(self, x: Any, y: Any) -> None:
        """Normal prior of each weight, and the likelihood of a batch scaled to all N items."""
        import jax
        import numpyro
        import numpyro.distributions as dist

        case, h = self.case, x
        activation = {"tanh": jax.numpy.tanh, "relu": jax.nn.relu}[case["activation"]]
        last = len(case["widths"]) - 2
        for layer, (rows, columns) in enumerate(pairwise(case["widths"])):
            prior = dist.Normal(0.0, case["prior_std"])
            weight = numpyro.sample(f"weight{layer}", prior.expand([rows, columns]).to_event(2))
            bias = numpyro.sample(f"bias{layer}", prior.expand([columns]).to_event(1))
            h = h @ weight + bias
            h = h if layer == last else activation(h)
        if case["task"] == "classification":
            observed = dist.Categorical(logits=h)
        else:
            observed = dist.Normal(h, case["noise_std"]).to_event(1)
        with (
            numpyro.handlers.scale(scale=case["items"] / len(x)),
            numpyro.plate("items", len(x)),
        ):
            numpyro.sample("y", observed, obs=y)

    def round(self) -> dict[str, Any]:
        """Return the seconds of an update, from its start until its result is available."""
        import jax

        began = time.perf_counter()
        for _ in range(self.case["steps"]):
            self.state, loss = self.update(self.state, *self.batch)
            jax.block_until_ready((self.state, loss))
        return {"seconds": (time.perf_counter() - began) / self.case["steps"]}

    def draws(self) -> dict[str, Any]:
        """Return the loss of the batch, its weight samples and their densities' parameters."""
        import jax
        from numpyro import handlers

        svi, batch, params = self.svi, self.batch, self.svi.get_params(self.state)
        layers = range(len(self.case["widths"]) - 1)
        names = [f"{kind}{layer}" for layer in layers for kind in ("weight", "bias")]

        def loss(key: Any) -> Any:
            return svi.loss.loss(key, params, self.model, svi.guide, *batch)

        def draw(key: Any) -> Any:  # with the key that Trace_ELBO leaves to the guide of a sample
            guide = handlers.substitute(svi.guide, params)
            seeded = handlers.seed(guide, jax.random.split(key)[1])
            sites = handlers.trace(seeded).get_trace(*batch)
            return {name: sites[name]["value"] for name in names}

        key = jax.random.key(2)
        drawn = jax.jit(jax.vmap(draw))(jax.random.split(key, self.case["samples"]))
        return {
            "loss": float(jax.jit(loss)(key)),
            "draws": {name: value.tolist() for name, value in drawn.items()},
            "params": {name: value.tolist() for name, value in params.items()},
        }

    def about(self) -> dict[str, Any]:
        """Return fields of the record that describe the variant."""
        import jax
        import numpyro

        params = self.svi.get_params(self.state)
        return {
            "versions": {"numpyro": numpyro.__version__, "jax": jax.__version__},
            "device": jax.devices()[0].platform,
            "trained": sum(value.size for value in params.values()),
            "cores": sorted(os.sched_getaffinity(0)),
            "peak_rss_mb": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024],
        }


def say(told: dict[str, Any]) -> None:
    """Answer in one line."""
    sys.stdout.write(f"{MARK}{json.dumps(told)}\n")
    sys.stdout.flush()


def main(text: str) -> None:
    """Compile the update, then execute commands until ``end``."""
    inference = Inference(json.loads(text))
    inference.round()
    say({"pids": [os.getpid()]})
    while (word := sys.stdin.readline().strip() or "end") != "end":
        say(inference.draws() if word == "draws" else inference.round())
    say(inference.about())


if __name__ == "__main__":
    main(sys.argv[1])
