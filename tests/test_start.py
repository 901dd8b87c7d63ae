"""A rank starts without what it does not use, above all torch's compiler."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from conftest import environment
from patience import patient

from hpcsamp.methods.eager import eager
from hpcsamp.models import MLP, ViT, blank

TRAIN = """
import sys
from hpcsamp.cli import app

for more in {runs!r}:
    app(["train", *more, "--data", {data!r}], standalone_mode=False)
heavy = "torch._dynamo sympy sklearn scipy torchvision torch_blue matplotlib pandas".split()
print("imported:", [name for name in heavy if name in sys.modules])
"""


def started(code: str) -> subprocess.CompletedProcess[str]:
    """Run code by a Python that is started, not forked from a process with many imports."""
    words, limit = [sys.executable, "-c", code], patient(60)
    return subprocess.run(
        words, capture_output=True, text=True, timeout=limit, check=False, env=environment()
    )


SHORT = ["--set", "training.steps=2", "--set", "method.samples=2", "--output"]


def test_training_imports_neither_the_compiler_nor_plots_nor_other_libraries(digits, tmp_path):
    vit = ["vit-digits", *SHORT, str(tmp_path / "vit")]
    done = started(TRAIN.format(runs=[vit], data=str(digits)))
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout


KINDS = [
    kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam", "Muon")
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_eager_optimiser_does_what_torchs_does(kind):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))

    def trained(made):
        net = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.arange(p.numel()).view(p.shape) / 10)
        optimizer = made(net.parameters(), lr=0.01)

        def closure():
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            return loss

        for number in range(4):
            assert optimizer.step(closure) is not None
            if number == 1:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = made(net.parameters(), lr=0.5)
                optimizer.load_state_dict(state)
        assert type(optimizer).__name__ == kind.__name__
        assert all(p.requires_grad and p.is_leaf for p in net.parameters())
        return [p.detach().clone() for p in net.parameters()]

    for ours, theirs in zip(trained(eager(kind)), trained(kind), strict=True):
        assert torch.equal(ours, theirs)
    assert isinstance(eager(kind)([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1), kind)


def test_blank_networks_have_the_shapes_of_filled_ones():
    for make in (
        lambda: ViT((1, 8, 8), 10, patch=2, width=12, heads=3, layers=1, hidden=8),
        lambda: MLP((5,), 2, hidden=(4,)),
        lambda: torch.nn.ParameterList([torch.nn.init.normal_(torch.empty(3, 2), std=0.1)]),
        lambda: torch.nn.ParameterList([torch.randn(2, 3, generator=None), torch.rand((4, 1))]),
    ):
        with blank():
            empty = make()
        full = make()
        assert all(p.is_meta for p in empty.parameters())
        assert [(n, p.shape, p.dtype) for n, p in empty.named_parameters()] == [
            (n, p.shape, p.dtype) for n, p in full.named_parameters()
        ]
    assert not torch.randn(3).is_meta


def test_a_report_is_drawn_without_torch(hpcsamp, digits, tmp_path):
    run = tmp_path / "run"
    arguments = ["--set", "training.steps=2", "--set", "method.samples=2", "--output", run]
    for command in (
        ["train", "vit-digits", "--data", digits, *arguments],
        ["evaluate", run, "--split=test", "--samples=2"],
    ):
        done = hpcsamp(1, *command)
        assert done.code == 0, done.err
    code = f"""
import sys
from hpcsamp.cli import app

app(["report", {str(run)!r}], standalone_mode=False)
print("imported:", [name for name in ("torch", "scipy", "sklearn") if name in sys.modules])
"""
    done = started(code)
    assert done.returncode == 0, done.stderr
    assert "uncertain-items.png" in done.stdout
    assert "imported: []" in done.stdout


def test_sets_are_made_and_reports_imported_without_torch(tmp_path):
    rows = [f"{i},{i % 3}" for i in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["a,visits", *rows]))
    code = f"""
import sys
import hpcsamp.ingest.build
import hpcsamp.report
from hpcsamp.cli import app

app(["ingest", "csv", "--help"], standalone_mode=False)
made = {str(tmp_path / "made")!r}
app(
    ["ingest", "csv", {str(tmp_path / "table.csv")!r}, "--target", "visits", "--task", "counts",
     "--out", made],
    standalone_mode=False,
)
print("imported:", [name for name in ("torch", "scipy", "sklearn") if name in sys.modules])
"""
    done = started(code)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout
    assert "imported: []" in done.stdout
    manifest = (tmp_path / "made" / "manifest.json").read_text()
    assert '"counts"' in manifest
