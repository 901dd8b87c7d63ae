"""Random streams are functions of their names."""

from __future__ import annotations

import torch

from hpcsamp.streams import Purpose, key, numpy_generator, torch_generator


def draw(*counters, seed=1, purpose=Purpose.NOISE):
    return torch.empty(8).normal_(generator=torch_generator("cpu", seed, purpose, *counters))


def test_a_stream_is_what_its_name_says():
    assert torch.equal(draw(5, 2), draw(5, 2))
    for other in (draw(5, 3), draw(6, 2), draw(5, 2, seed=2), draw(5, 2, purpose=Purpose.DROPOUT)):
        assert not torch.equal(draw(5, 2), other)


def test_neither_the_global_generator_nor_earlier_draws_matter():
    before = draw(1, 1)
    torch.manual_seed(99)
    torch.randn(3)
    assert torch.equal(before, draw(1, 1))
    state = torch.random.get_rng_state()
    draw(1, 2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_samples_of_a_step_never_share_a_seed():
    seeds = {
        torch_generator("cpu", 1, Purpose.NOISE, 7, s).initial_seed() & 0xFFFFFFFF
        for s in range(20_000)
    }
    assert len(seeds) == 20_000  # torch's CPU generator looks at these 32 bits alone


def test_keys_are_pinned():
    """A change of these numbers changes every result: it would need a new schema version."""
    assert key(1, Purpose.ORDER, 3) == 16671943431219169903
    assert int(numpy_generator(1, Purpose.AUGMENT, 0, 5, 2).integers(2**32)) == 1362474835
