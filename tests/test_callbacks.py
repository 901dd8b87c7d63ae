"""Callbacks: their order, what they see, how they end a run; early stopping; rates by a metric."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import launch

from hpcsamp.errors import UsageError
from hpcsamp.run import checkpoint
from hpcsamp.training.callbacks import Callback, Moment
from hpcsamp.training.patience import Patience

TESTS = Path(__file__).parent


class Recorder(Callback):
    """Notes what is called, counts its steps, and may end the run or break."""

    def __init__(self, stop_at: int = 0, break_on: int = -1) -> None:
        self.stop_at, self.break_on = stop_at, break_on
        self.count = 0
        self.seen: list[str] = []

    def note(self, verb: str, at: Moment) -> None:
        assert math.isfinite(at.loss) == (at.step > 0 and verb != "begin")
        self.seen.append(f"{verb} {at.step} {at.epoch} {len(at.metrics) > 0}")
        if at.is_root:
            (at.folder / "seen.txt").write_text("\n".join(self.seen))

    def begin(self, at: Moment) -> None:
        self.note("begin", at)

    def after_step(self, at: Moment) -> None:
        self.count += 1
        if self.count == 3 and at.rank == self.break_on:
            raise ValueError("broken")
        if at.step in (1, 19, 20, self.stop_at):
            self.note("step", at)
        if at.step == self.stop_at and at.rank == 0:  # on one rank alone
            at.stop("as told")

    def after_evaluation(self, at: Moment) -> None:
        self.note("evaluation", at)

    def end(self, at: Moment) -> None:
        self.note("end", at)

    def state_dict(self) -> dict[str, object]:
        return {"count": self.count, "tensor": torch.ones(2)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.count = state["count"]


def moment(step: int = 0, score: float = math.nan) -> Moment:
    made = Moment(None, None, Path(), 0, 100, 10, step=step)
    made.score, made.metric = score, "nll"
    return made


@pytest.mark.parametrize(
    ("scores", "least", "ends"),
    [
        ([3, 2, 1, 0, -1, -2], 0.0, None),
        ([3, 3, 3, 3, 3], 0.0, 3),
        ([3, 2, 2.5, 1.9, 1.95, 2, 2.1], 0.0, 6),
        ([3, 2.6, 2.3, 1.9], 0.5, None),  # slow, but better than the best one by enough in time
        ([3, 2.9, 2.8, 2.7], 0.5, 3),
        ([math.nan, math.nan, 1], 0.0, None),
        ([1, math.nan, math.inf, 0.5], 0.0, None),
        ([1, math.nan, math.inf, 2], 0.0, 3),
    ],
)
def test_patience_counts_evaluations_without_improvement(scores, least, ends):
    patience, found = Patience(3, least), None
    for number, score in enumerate(scores):
        if number == 2:  # a run that goes on
            state, patience = patience.state_dict(), Patience(3, least)
            patience.load_state_dict(state)
            patience.begin(moment(number))
        at = moment(number, score)
        patience.after_evaluation(at)
        if at._reason and found is None:
            found = number
            assert "patience: nll has not improved" in at._reason
    assert found == ends
    if ends is not None:  # stays over, unless there is more patience
        for more, over in ((3, True), (9, False)):
            again, at = Patience(more, least), moment()
            again.load_state_dict(patience.state_dict())
            again.begin(at)
            assert bool(at._reason) == over


def options(run: Path, *more: str) -> list[str]:
    return ["-o", str(run), "--set=training.epochs=9", *more]


def summary(run: Path) -> dict[str, object]:
    return json.loads((run / "summary.json").read_text())


def test_patience_ends_a_run_and_keeps_its_best_state(commands, small, tmp_path):
    """On any grid; a run that was stopped on the way, between checkpoints, ends at the same step;
    one that is over stays so until it has more patience.
    """
    given = ["--set=training.patience=2", "--set=training.min_delta=1e6"]
    often = "--set=training.checkpoint_every=5"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = commands(
        2,
        ["train", small, *options(whole, *given)],
        ["train", small, *options(parts, *given, often, "--set=training.steps=38")],
        ["train", small, *options(parts, *given, often, "--resume")],
        ["train", small, *options(parts, *given, often, "--resume")],
    )
    assert done.code == 0, done.err
    for run in (whole, parts):
        found = summary(run)
        assert found["steps"] == 57
        assert found["ended"].startswith("patience: nll has not improved by more than 1e+06 in 2")
        assert found["ended"].endswith("since step 19")
        kept = checkpoint.read(run / "checkpoints/best.pt")
        assert kept["step"] == kept["best_step"] == found["best_step"]
    assert summary(whole)["parameters_sha256"] == summary(parts)["parameters_sha256"]
    assert done.out.count("ended after step 57 of 171: patience") == 3
    more = ["--set=training.patience=3", "--set=training.min_delta=1e6", "--resume"]
    plateau = ["--set=schedule.name=ReduceLROnPlateau", "--set=schedule.patience=0",
               "--set=schedule.threshold=1e6", "--set=schedule.threshold_mode=abs",
               "--set=schedule.warmup_epochs=1"]  # fmt: skip
    rates = tmp_path / "rates"
    done = commands(
        1,
        ["train", small, *options(whole, *more)],
        ["train", small, *options(rates, *plateau, "--set=training.steps=38")],
        ["train", small, *options(rates, *plateau, "--set=training.steps=76", "--resume")],
    )
    assert done.code == 0, done.err
    assert summary(whole)["steps"] == 76
    lines = [json.loads(line) for line in (rates / "metrics.jsonl").read_text().splitlines()]
    lr = {e["step"]: e["lr"] for e in lines if e["event"] == "train"}
    assert lr[1] == pytest.approx(5e-3 / 20)  # warm-up
    assert lr[20] == lr[38] == pytest.approx(5e-3)  # the first evaluation is the best so far
    assert lr[39] == lr[57] == pytest.approx(5e-4)
    assert lr[58] == lr[76] == pytest.approx(5e-5)


PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from hpcsamp.cli import main
sys.argv = ["hpcsamp", *sys.argv[1:]]
main()
"""


def test_callbacks_are_called_in_order_on_all_ranks(small, tmp_path):
    run = tmp_path / "run"
    named = "--set=training.callbacks=[{name = 'test_callbacks:Recorder', stop_at = %d}]"
    done = launch(2, "-c", PROGRAM, "train", str(small), *options(run, named % 21))
    assert done.code == 0, done.err
    assert (run / "seen.txt").read_text().splitlines() == [
        "begin 0 0 False",
        "step 1 0 False",
        "step 19 0 False",
        "evaluation 19 0 True",
        "step 20 1 True",
        "step 21 1 True",
        "end 21 1 True",
    ]
    assert summary(run)["ended"] == "as told"
    kept = checkpoint.read(checkpoint.latest(run / "checkpoints"))
    (state,) = kept["callbacks"].values()
    assert state["count"] == 21
    again = options(run, named % 40, "--resume")
    assert launch(1, "-c", PROGRAM, "train", str(small), *again).code == 0
    assert summary(run)["steps"] == 40
    broken = "--set=training.callbacks=[{name = 'test_callbacks:Recorder', break_on = 1}]"
    done = launch(2, "-c", PROGRAM, "train", str(small), *options(tmp_path / "broken", broken))
    assert done.code == 1
    assert done.errors == [
        "hpcsamp: error: RuntimeError: Recorder.after_step at step 3: ValueError: broken"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.patience=0"], "training.patience"),
        (["training.min_delta=0.1"], "min_delta = 0.1 has no effect without training.patience"),
        (["training.callbacks=['json:dumps']"], "is not a subclass of hpcsamp.training.callbacks"),
        (["training.callbacks=[{stop_at = 3}]"], "training.callbacks"),
        (["schedule.name=ReduceLROnPlateau", "schedule.mode=max"], "less is better: leave it out"),
        (["schedule.name=ReduceLROnPlateau", "schedule.factr=0.1"], "schedule.factr"),
    ],
)
def test_what_cannot_be_is_refused(settings, message, small, tmp_path):
    from hpcsamp import config
    from hpcsamp.grid import init
    from hpcsamp.training.loop import Trainer

    with pytest.raises(UsageError) as error:
        Trainer(config.load(small, settings), init(), tmp_path / "run")
    assert message in str(error.value)


def test_a_state_that_cannot_be_read_back_is_refused():
    from hpcsamp.grid import init
    from hpcsamp.training.callbacks import Callbacks

    class Odd(Callback):
        def state_dict(self):
            return {"history": [1.0, {"where": Path()}]}

    with pytest.raises(UsageError, match=r"the state of .*Odd 1 contains a \w*Path; a checkpoint"):
        Callbacks([Odd()], init()).state_dict()
    with pytest.raises(UsageError, match=r"not an instance of a subclass of hpcsamp"):
        Callbacks([Odd], init())
