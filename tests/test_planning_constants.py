"""Measured constants: found again in made-up points, kept, told where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from planning_cases import a_work, points, record

from hpcsamp.errors import UsageError
from hpcsamp.planning import calibration, fit, machine, network
from hpcsamp.planning.counts import OperationCounts
from hpcsamp.planning.model import NodeLayout, predict
from hpcsamp.planning.network import Link


def test_constants_are_found_again():
    fitted, held = fit.hold_back(points())
    assert len(fitted) + len(held) == len(points())
    assert len(held) >= 12
    assert not set(fitted) & set(held)
    found = fit.fit(fitted)
    assert found.crowd == pytest.approx(1.2, abs=0.026)
    assert found.models["vit"] == pytest.approx((2e-3, 4e-3, 1e-3), rel=0.05)
    error = fit.errors([found.predict(p) for p in held], held)
    assert error["max"] < 0.01


def test_a_disturbed_point_does_little_harm():
    disturbed = points(noise=0.01)
    for i in (5, 20, 30):
        disturbed[i] = replace(disturbed[i], seconds=0.5 * disturbed[i].seconds)
    found = fit.fit(disturbed)
    others = [p for i, p in enumerate(disturbed) if i not in (5, 20, 30)]
    assert (
        fit.errors([found.predict(p) for p in others], others)["median"] < 0.02
    )  # 0.08 with plain squares


def test_constants_of_model_ranks_are_found_again():
    """Points in one piece, on two model ranks, and these beside sample ranks."""

    def seconds(p):
        s, b, m = -(-p.samples // p.sample_size), p.batch / p.data_size, p.model_size
        divided = (3e-3 + 0.02 * s + 0.1 * s * b) / m
        return (1.1 if p.ranks > 1 else 1.0) * divided + (m > 1) * (4e-3 * s + 0.01 * s * b)

    cases = [
        fit.MeasuredStep("mixer", s, b, p, d, 0.0, 100_000 // m, m)
        for p, d, m in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 2))
        for s in (2, 4, 8)
        for b in (2, 4, 8)
    ]
    made = [replace(p, seconds=seconds(p)) for p in cases]
    fitted, held = fit.hold_back(made)
    assert {p.model_size for p in held} == {1, 2}
    found = fit.fit(fitted)
    assert found.parts["mixer", 2] == pytest.approx((4e-3, 0.01), rel=0.02)
    assert fit.errors([found.predict(p) for p in held], held)["max"] < 0.01
    with pytest.raises(UsageError, match="not fitted on 4 model ranks"):
        found.predict(replace(made[0], model_size=4))


def test_a_link_is_found_again():
    sizes = [16, 1024, 65536, 1e6, 1e7]
    for ranks in (2, 8):
        seconds = [
            min(f(ranks, s, Link(5e-6, 1e-9)).seconds for f in network.ALLREDUCE.values())
            for s in sizes
        ]
        alpha, beta = fit.link(ranks, sizes, seconds)
        assert alpha == pytest.approx(5e-6, rel=0.1)
        assert beta == pytest.approx(1e-9, rel=0.1)


def test_records_are_read(tmp_path):
    lines = tmp_path / "steps.jsonl"
    lines.write_text("".join(json.dumps(record(p)) + "\n" for p in points()) + '{"event": "x"}\n')
    whole = tmp_path / "steps.json"
    whole.write_text(json.dumps([record(p) for p in points()]))
    assert fit.read(lines) == fit.read(whole) == points()


def test_records_of_scaling_experiments_are_read(tmp_path):
    path = tmp_path / "scaling.jsonl"
    line = {"workload": "vit", "samples": 8, "batch": 4, "ranks": 6, "sample_size": 3,
            "step_seconds": 0.5}  # fmt: skip
    path.write_text(json.dumps(line) + "\n")
    assert fit.read(path) == [fit.MeasuredStep("vit", 8, 4, 3, 2, 0.5)]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "scaling.jsonl").write_text(json.dumps(line | {"samples": 6}) + "\n")
    assert [p.samples for p in fit.read(tmp_path)] == [6, 8]
    path.write_text(json.dumps(line | {"model_group_size": 2}) + "\n")
    assert fit.read(path) == [fit.MeasuredStep("vit", 8, 4, 3, 1, 0.5, model_size=2)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "none of 1 records has samples, batch, model"),
        ("not json\n", "not valid JSON"),
        (None, "No such file"),
    ],
)
def test_bad_records(tmp_path, text, told):
    path = tmp_path / "steps.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=told):
        fit.read(path)


def test_too_few_points():
    with pytest.raises(UsageError, match="model vit has 3 constants to fit, but only 2 points"):
        fit.fit(points(["vit"])[:2])


def a_calibration(**changes) -> calibration.Calibration:
    model = {
        "key": "net", "name": "net", "base": 1e-3, "per_item": 1e-4, "overhead": 2e-4,
        "crowd": 1.1, "flops": 1e6, "operations": 50,
    }  # fmt: skip
    given = {
        "machine": calibration.fingerprint(), "models": [model], "draw": 1e-9, "penalty": 2e-9,
        "update": 3e-9, "augment": 1e-9, "read": 1e-9, "copy": 1e-9, "agreement": 1e-5,
        "link": {"alpha": 3e-6, "bandwidth": 2e9}, "jitter": 0.01, "cycles": 0.5,
    }  # fmt: skip
    return calibration.Calibration.model_validate({**given, **changes})


def test_measured_constants_are_used(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(a_calibration().model_dump(by_alias=True)))
    found = calibration.load(path)
    assert found == a_calibration()
    site = machine.load("local")
    own = found.rates(site, a_work())
    assert own.origin == "measured"
    assert own.of_pass(10).seconds == pytest.approx(1e-3 + 10 * 1e-4)
    place = found.machine_of(site)
    assert place.network.within.bandwidth == 2e9
    assert (place.jitter, place.network.cycles) == (0.01, 0.5)
    larger = a_work(key="other", counts=OperationCounts((0, 5e6), (0, 1), 100))
    scaled = found.rates(site, larger)
    assert scaled.origin == "scaled from measured net"
    assert scaled.of_pass(10).seconds == pytest.approx(2 * 1e-3 + 10 * 5e-4)
    # several ranks of a node slow each other's compute
    alone = predict(a_work(), NodeLayout(1, 1, 4), place, own).phase("forward+backward")
    both = predict(a_work(), NodeLayout(1, 2, 4), place, own).phase("forward+backward")
    assert both == pytest.approx(1.1 * alone * (1e-3 + 32e-4) / (1e-3 + 64e-4))


def test_calibrations_of_other_machines_are_told():
    here = calibration.fingerprint()
    assert calibration.differences(a_calibration(), here) == ""
    other = a_calibration(machine={**here, "cores": 4096})
    assert f"cores 4096, here {here['cores']}" in calibration.differences(other, here)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "field required"),
        ("{", "not valid JSON"),
        (None, "make one by hpcsamp bench calibrate"),
    ],
)
def test_bad_calibrations(tmp_path, text, told):
    path = tmp_path / "calibration.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=told):
        calibration.load(path)
