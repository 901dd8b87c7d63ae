"""Configurations: checked, with suggestions."""

from __future__ import annotations

import itertools
import re
import tomllib

import pytest

from hpcsamp import config
from hpcsamp.config import checking, former
from hpcsamp.errors import UsageError
from hpcsamp.losses import CRPS

MINIMAL = {"data": {"path": "d"}, "model": {"name": "mlp"}}


class Named(CRPS):
    """A user's own, with an argument that is nearly called as a key of [loss]."""

    def __init__(self, temperatures=()):
        super().__init__()


def refused(table):
    with pytest.raises(UsageError) as e:
        config.check(table, "x.toml")
    assert "\n" not in str(e.value)
    return str(e.value)


def test_misspelt_keys_get_a_suggestion():
    assert "did you mean 'data.batch'?" in refused({**MINIMAL, "data": {"path": "d", "bach": 3}})
    assert "did you mean 'method.samples'" in refused({**MINIMAL, "samples": 16})
    assert "did you mean 'optimizer'" in refused({**MINIMAL, "optimiser": {}})
    for loss in ({"exakt": True}, {"name": "crps", "temprature": 2.0}):
        assert "did you mean" in refused({**MINIMAL, "loss": loss})
    assert "method.sample'; did you mean 'samples'" in refused({**MINIMAL, "method": {"sample": 3}})
    config.check({**MINIMAL, "loss": {"name": "test_config:Named", "temperatures": [1, 2]}})


def test_a_wrong_value_names_its_key_and_the_value():
    assert "data.batch = 0" in refused({**MINIMAL, "data": {"path": "d", "batch": 0}})
    assert "data is missing" in refused({"model": {"name": "mlp"}})
    message = refused({**MINIMAL, "training": {"precision": "float16"}})
    assert "training.precision = 'float16'" in message
    assert "bfloat16" in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("loss.exact=no", "loss.exact = 'no': true or false is needed"),
        ("data.batch=true", "data.batch = True: a number is needed"),
        ("optimizer.lr=inf", "optimizer.lr = inf: a finite number is needed"),
        ("loss.temperature=true", "loss.temperature = True: a number is needed"),
        ("training.epochs='8'", "training.epochs = '8': a number is needed"),
    ],
)
def test_a_value_of_another_kind_is_not_converted(setting, words):
    table = {"data": {"path": "d"}, "model": {"name": "mlp"}}
    with pytest.raises(UsageError, match=re.escape(words)):
        config.check(config.apply_overrides(table, [setting]))


def test_several_faults_are_one_line():
    message = refused({**MINIMAL, "data": {"batch": 0}})
    assert "data.batch" in message
    assert "data.path" in message


def test_what_is_written_reads_back_the_same():
    made = config.check({**MINIMAL, "optimizer": {"name": "SGD", "momentum": 0.9}})
    assert config.check(tomllib.loads(config.to_toml(made))) == made
    assert made.optimizer.arguments == {"lr": 1e-3, "momentum": 0.9}


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=1e-3", 1e-3), ("a.b=[1, 2]", [1, 2]), ("a.b=cosine", "cosine"), ('a.b="x"', "x")],
)
def test_overrides_are_toml_or_words(text, value):
    assert config.apply_overrides({"a": {"c": 1}}, [text]) == {"a": {"b": value, "c": 1}}


@pytest.mark.parametrize(("task", "best"), [("classification", "accuracy"), ("regression", "rmse")])
def test_the_best_state_is_chosen_by_a_metric_of_the_task(task, best):
    table = {"data": {"path": "d"}, "model": {"name": "mlp"}, "training": {"best": best}}
    assert config.check({**table, "task": task}).training.best == best
    other = "regression" if task == "classification" else "classification"
    with pytest.raises(UsageError, match=f'training.best = "{best}" is not a metric of'):
        config.check({**table, "task": other})


@pytest.mark.parametrize("text", ["a.b", "=3", "data.path.x=1"])
def test_overrides_that_are_none_are_refused(text):
    with pytest.raises(UsageError):
        config.apply_overrides({"data": {"path": "d"}}, [text])


@pytest.mark.parametrize("name", config.named_configs())
def test_configurations_of_the_package_are_valid(name):
    assert config.load(name).seed >= 0


def test_an_unknown_configuration_lists_the_known(tmp_path):
    with pytest.raises(UsageError, match="vit-digits"):
        config.load("vit-digit")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        config.load(tmp_path / "bad.toml")


def test_a_key_that_an_older_version_did_not_know_is_no_other_configuration(small):
    from hpcsamp.run import resolve

    now = resolve.table_of(config.load(small))
    older = {**now, "method": {k: v for k, v in now["method"].items() if k != "antithetic"}}
    older["training"] = {k: v for k, v in now["training"].items() if k != "memory_check"}
    assert "antithetic" in now["method"]
    assert resolve.table_of(older) == now
    older["method"]["prior_std"] = 0.7
    assert resolve.table_of(older) != now


FORMER = {"likelihood": "gaussian", "std": 0.2, "fair": True, "latitudes": "data"}
TODAY = '[loss] fair = true, latitudes = "data" and [likelihood] name = "gaussian", std = 0.2'


@pytest.mark.parametrize("loss", ["crps", "expected_nll"])  # the second has no fair, but crps has
def test_former_arguments_of_a_loss_are_refused_with_the_keys_of_today(loss):
    table = {**MINIMAL, "loss": {"name": loss, "arguments": FORMER}}
    assert TODAY in refused(table)
    assert refused({**MINIMAL, "loss": {"name": loss, "arguments": {"std": 0.2}}}).endswith(
        "write [likelihood] std = 0.2"
    )
    assert "leave it out" in refused({**MINIMAL, "loss": {"arguments": {}}})
    assert "loss.arguments = 3" in refused({**MINIMAL, "loss": {"arguments": 3}})
    for setting, today in (
        ("loss.arguments.std=0.2", "likelihood.std=0.2"),
        ("loss.arguments.fair=false", "loss.fair=false"),
        ("loss.arguments.likelihood=student_t", "likelihood.name=student_t"),
    ):
        with pytest.raises(UsageError, match=f"write --set {today}$"):
            config.apply_overrides(MINIMAL, [setting, f"loss.name={loss}"])


def test_arguments_that_the_users_own_loss_takes_are_the_losss():
    loss = {"name": "loss_cases:WithStd", "arguments": {"std": 0.2, "likelihood": "gaussian"}}
    assert '[loss] std = 0.2 and [likelihood] name = "gaussian"' in refused(
        {**MINIMAL, "loss": loss}
    )


def test_what_a_run_wrote_with_former_keys_is_read_with_those_of_today():
    former = {**MINIMAL, "loss": {"name": "crps", "exact": True, "arguments": FORMER}}
    found = config.check(config.converted(former))
    assert found.loss.arguments == {"fair": True, "latitudes": "data"}
    assert found.likelihood.table == {"name": "gaussian", "std": 0.2}
    assert config.converted(found.model_dump()) == found.model_dump()
    assert config.converted({**MINIMAL, "loss": {"arguments": {}}})["loss"] == {}


def test_a_run_folder_with_former_keys_is_read(tmp_path):
    from hpcsamp.run import checkpoint
    from hpcsamp.run.folder import RunFolder
    from hpcsamp.sealing import text

    former = {**MINIMAL, "loss": {"name": "crps", "exact": True, "arguments": FORMER}}
    (tmp_path / "config.toml").write_text(text.to_toml({"run": "a", **former}, "a"))
    found = RunFolder(tmp_path).config(["likelihood.std=0.3"])
    assert found.loss.arguments == {"fair": True, "latitudes": "data"}
    assert found.likelihood.table == {"name": "gaussian", "std": 0.3}
    path = checkpoint.step_path(tmp_path, 3)
    checkpoint.save(path, {"step": 3, "config": former})
    assert checkpoint.read(path)["config"] == config.converted(former)
    with pytest.raises(UsageError, match=re.escape(TODAY)):  # the configuration of another run
        config.load(tmp_path / "config.toml")


#: Of every key that is not marked, another value makes another run.
FREE = {
    "data": {"path", "reader", "verify", "slots", "accumulate"},
    "model": {"weights"},  # their checksum is compared
    "method": {"samples_per_pass", "strategy"},
    "loss": {"memory"},
    "optimizer": {"sharded"},
    "parallel": {"samples", "model", "collectives", "device", "buckets"},
    "training": {
        "compile", "graphs", "steps", "evaluate_every", "checkpoint_every", "checkpoint_behind",
        "keep", "log_every", "memory_check", "time_limit", "time_margin", "stall", "patience",
        "min_delta", "callbacks",
    },
    "evaluation": {
        "batch_norm", "batch_norm_items", "samples", "batch", "bins", "samples_per_pass",
    },
    "record": {"to"},
}  # fmt: skip


def test_a_run_goes_on_with_other_keys_if_they_change_no_weights(tmp_path):
    from hpcsamp.errors import CheckpointError
    from hpcsamp.run import checkpoint

    table = {"data": {"path": "d"}, "model": {"name": "vit", "checkpoint": False}}
    for name in config.known_keys(config.RunConfig):
        section, _, key = name.partition(".")
        if not key or name.count(".") > 1:
            continue
        after = {**table, section: {**table.get(section, {}), key: "another"}}
        if key in FREE.get(section, ()):
            checkpoint.check_config(tmp_path, table, after)
        else:
            with pytest.raises(CheckpointError, match=name.split(".")[-1]):
                checkpoint.check_config(tmp_path, table, after)
    after = {**table, "model": {"name": "vit", "checkpoint": True}}
    checkpoint.check_config(tmp_path, table, after)
    crps = {**table, "loss": {"name": "crps"}, "likelihood": {"name": "gaussian", "std": 0.2}}
    checkpoint.check_config(tmp_path, crps, {**crps, "likelihood": {"name": "gaussian"}})
    own = {**crps, "loss": {"name": "loss_cases:WithStd", "level": 0.5}}
    checkpoint.check_config(tmp_path, own, {**own, "loss": {**own["loss"], "level": 0.9}})
    read = {**crps, "loss": {"name": "expected_nll"}}
    for before, after, key in (
        (read, {**read, "likelihood": {"name": "gaussian"}}, "likelihood.std"),
        (crps, {**crps, "likelihood": {"name": "student_t"}}, "likelihood.name"),
        (own, {**own, "loss": {**own["loss"], "std": 0.9}}, "loss.std"),
    ):
        with pytest.raises(CheckpointError, match=key):
            checkpoint.check_config(tmp_path, before, after)
    with pytest.raises(CheckpointError, match=r"model\.depth"):
        checkpoint.check_config(tmp_path, table, {**table, "model": {"name": "vit", "depth": 3}})


def test_the_fold_of_mc_dropout_is_samples_per_pass_now():
    table = {"method": {"name": "mc_dropout", "fold": 4, "rate": 0.1}}
    with pytest.raises(UsageError, match=r"run.toml: method.fold = 4: write method.samples_per_p"):
        former.check(table, "run.toml")
    assert former.converted(table) == {"method": {"name": "mc_dropout", "rate": 0.1}}
    former.check({"method": {"name": "mine:Own", "fold": 4}}, "run.toml")  # an argument of its own


def test_tables_checked_before_are_not_trusted_where_others_matter(monkeypatch):
    """Each table of the last configuration of a kind was accepted in another one."""
    tables = {
        "data": [{"path": "d", "batch": b} for b in (1, 1.0, True)],
        "task": [{"kind": "classification"}, {"kind": "regression"}, "regression"],
        "training": [{"best": "accuracy"}, {"best": "rmse"}, {"best": "rmse", "min_delta": 0.5}],
        "method": [
            {"samples": 4, "samples_per_pass": 4},
            {"samples": 2, "samples_per_pass": 4},
            {"name": "mc_dropout", "fold": True},
        ],
        "loss": [{"name": "crps", **more} for more in ({"arguments": {}}, {}, {"exat": True})],
    }
    base = {"model": {"name": "vit", "heads": 2}, "seed": 3}
    known, outcomes = config.Known(base), []
    for chosen in 2 * list(itertools.product(*tables.values())):
        table = {**base, **dict(zip(tables, chosen, strict=True))}
        several = outcome(lambda table=table: config.check(table, known=known))
        assert several == outcome(lambda table=table: config.check(table))
        outcomes.append(several)
    assert sum(isinstance(o, str) for o in outcomes) not in (0, len(outcomes))
    assert any("is not a metric of task" in o for o in outcomes if isinstance(o, str))
    # an equal table is not validated again, neither that of the base nor another one
    used = []
    monkeypatch.setattr(checking, "_check_spelling", lambda table, *_: used.append(table))
    accepted = {**base, "data": {"path": "d"}, "task": {"kind": "regression"}}
    config.check(accepted, known=known)
    assert used == []


def outcome(check):
    try:
        return check().model_dump()
    except UsageError as e:
        return str(e)
