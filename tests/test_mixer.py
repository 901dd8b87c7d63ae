"""The mixer: against torch's own layers, its number of parameters, and runs of it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from layer_cases import IN, mixer, numbers, plain

from hpcsamp import layers
from hpcsamp.models import Mixer


def test_the_sequential_mixer_is_the_plain_one():
    network, x = mixer(), numbers(2, *IN)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    torch.testing.assert_close(network(x), plain(network, x), rtol=1e-11, atol=1e-11)
    assert {p.is_whole for p in layers.parts_of(network).values()} == {True}
    again = mixer(checkpoint=True)
    again.load_state_dict(network.state_dict())
    for one in (network, again):
        one(x).square().sum().backward()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_mixer_has_the_papers_parameters():
    with torch.device("meta"):
        network = Mixer((72, 720, 1440), 69 * 720 * 1440)
        out = network(torch.randn(1, 72, 720, 1440))
    c, t = 4320, 17280
    rows = {
        r"strips to tokens .*? \+ C": 72 * 60 * c + c,
        r"3 token mixers .*? \+ T\)": 3 * (2 * t * t // 2 + t // 2 + t),
        r"3 channel mixers .*? 2 \* C\)": 3 * (2 * c * c + 2 * c),
        r"7 layer norms .*? 2 \* C": 7 * 2 * c,
        r"tokens to strips .*? \+ 69": 2 * c * 69 * 60 + 69,
        r"fields to outputs .*? \+ 69": (72 + 69) * 69 + 69,
        r"\n        all": sum(p.numel() for p in network.parameters()),
    }
    for text, value in rows.items():
        found = re.search(rf"{text}\s+([\d,]+)\n", Mixer.__doc__)
        assert int(found[1].replace(",", "")) == value, text
    assert 2 * sum(rows.values()) == 4 * 1_062_379_947
    variational = 2 * 1_062_379_947 - 7 * 2 * c
    assert f"{variational:,}" in Mixer.__doc__
    assert out.shape == (1, 69, 720, 1440)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strip": 5}, ["strip = 5", "48 longitudes"]),
        ({"width": 0}, ["width = 0", "at least 1"]),
        ({"tokens": 0.001}, ["tokens = 0.001", "144"]),
        ({"channels": -1.0}, ["channels = -1.0", "24"]),
    ],
)
def test_bad_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        mixer(**arguments)
    with pytest.raises(ValueError, match="10 outputs are not fields of 6 x 48 = 288"):
        Mixer(IN, 10, strip=4)
    with pytest.raises(ValueError, match=r"\(8, 7, 48\).*\(8, 6, 48\)"):
        mixer().input_part((8, 7, 48))


def test_a_run_is_the_same_on_one_rank_and_two(hpcsamp, tmp_path):
    """Of the smallest preset, with weights that are drawn."""
    losses = []
    for ranks in (1, 2):
        run = tmp_path / f"on-{ranks}"
        arguments = ["train", "mixer-era5", "--preset", "tiny", "--data", "synthetic"]
        settings = ["training.precision=float64", "training.log_every=1", "training.epochs=1"]
        done = hpcsamp(
            ranks, *arguments, "--output", run, *(f"--set={s}" for s in settings), cwd=tmp_path
        )
        assert done.code == 0, done.err
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append([e["loss"] for e in events if e["event"] == "train"])
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0][-1] < losses[0][0]
