"""Compare ``hpcsamp laplace`` with laplace-torch: ``python tests/laplace_peer.py [FOLDER]``.

FOLDER is where ``pip install --target`` has put ``laplace-torch``; it is no dependency of hpcsamp.
The same perceptron on the digits, after few and after many epochs, gets the same prior precision in
both. The columns are the log marginal likelihood of both (and of laplace-torch at 0.8 and 1.25
times the precision), the ratio of the logit variances, and NLL and accuracy of the trained weights
and of the probit predictive distributions. For layers with a bias laplace-torch factors weight and
bias apart, so that only ``last`` and ``diag`` agree to rounding.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hpcsamp.losses.labels import Categorical
from hpcsamp.methods.curvature import best_precision, log_evidence
from hpcsamp.methods.laplace import Laplace
from hpcsamp.prediction.gauss_newton import GaussNewton

sys.path += sys.argv[1:]
FORMS = {"last": "full", "last_kron": "kron", "kron": "kron", "diag": "diag"}


def scores(p: Tensor, y: Tensor) -> str:
    """NLL and accuracy of class probabilities."""
    nll = -p[range(len(y)), y].log().mean()
    return f"{float(nll):.3f} / {float((p.argmax(1) == y).double().mean()):.3f}"


def main() -> None:
    """Print one line for each kind and length of training."""
    from laplace import Laplace as Peer
    from laplace.curvature import CurvlinopsGGN

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images).double()[order] / 16
    y = torch.from_numpy(labels).long()[order]
    x, y, new, truth = x[:1000], y[:1000], x[1000:1300], y[1000:1300]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=100)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    optimizer, done = torch.optim.Adam(network.parameters(), lr=5e-3), 0
    for epochs in (5, 100):
        for _ in range(epochs - done):
            for a, b in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(a), b).backward()
                optimizer.step()
        done = epochs
        with torch.no_grad():
            print(f"{epochs} epochs: trained weights {scores(network(new).softmax(1), truth)}")
        for kind, form in FORMS.items():
            sums = GaussNewton(network, network, kind, Categorical(), x[:2])
            sums.add(x, y, torch.ones(len(x)).double())
            curvatures = sums.curvatures()
            values = torch.cat([of.eigenvalues() for of in curvatures.values()])
            weights = [p for of in sums.layers.values() for p in of.parameters()]
            square = float(sum(p.detach().square().sum() for p in weights))
            tau = best_precision(values, square)
            evidence = log_evidence(sums.log_likelihood, values, square, tau)
            network.requires_grad_(True)
            peer = Peer(
                network,
                "classification",
                subset_of_weights="last_layer" if kind.startswith("last") else "all",
                hessian_structure=form,
                prior_precision=tau,
                backend=CurvlinopsGGN,
            )
            peer.fit(loader)
            theirs = [
                float(peer.log_marginal_likelihood(torch.tensor(tau * f).double()))
                for f in (0.8, 1.25, 1)
            ]
            _, covariance = peer._glm_predictive_distribution(new)
            of_peer = covariance.diagonal(dim1=1, dim2=2)
            other = peer(new, pred_type="glm", link_approx="probit")
            network.requires_grad_(True)
            method = Laplace(
                network, curvatures, tau, linear=not kind.startswith("last"), probit=True
            )
            with torch.no_grad(), method.predicting():
                variances = method.logit_variances(new)[1]
                own = method(new, samples=range(1))[0].softmax(1)
                method.probit = False
                drawn = method(new, samples=range(64)).softmax(2).mean(0)
            ratio = variances / of_peer
            print(
                f"  {kind:9} tau {tau:8.4f}  log evidence {evidence:.4f}, peer {theirs[2]:.4f} "
                f"({theirs[0]:.2f}, {theirs[1]:.2f})  variances {ratio.min():.8f} to "
                f"{ratio.max():.8f}  probit {scores(own, truth)}, peer {scores(other, truth)}  "
                f"samples {scores(drawn, truth)}",
                flush=True,
            )
        network.requires_grad_(True)


if __name__ == "__main__":
    main()
