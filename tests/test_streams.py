"""Random streams are functions of their names."""

from __future__ import annotations

import torch

from hpcsamp.streams import Purpose, key, numpy_generator, torch_generator
from hpcsamp.streams.places import place_bits, place_keys, place_normals


def draw(*counters, seed=1, purpose=Purpose.INITIAL):
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
        torch_generator("cpu", 1, Purpose.INITIAL, 7, s).initial_seed() & 0xFFFFFFFF
        for s in range(20_000)
    }
    assert len(seeds) == 20_000  # torch's CPU generator looks at these 32 bits alone


def test_keys_are_pinned():
    """A change of these numbers changes every result: it would need a new schema version."""
    assert key(1, Purpose.ORDER, 3) == 16671943431219169903
    assert int(numpy_generator(1, Purpose.AUGMENT, 0, 5, 2).integers(2**32)) == 1362474835


def test_places_have_the_numbers_of_splitmix():
    """The first outputs of the published generator for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    keys = place_keys([1234567, 2**64 - 1], "cpu")
    bits = place_bits(keys, torch.arange(3), 1)[0, :, 0]
    assert [int(b) & 2**64 - 1 for b in bits] == published
    whole = place_bits(keys, torch.arange(6), 5)
    assert torch.equal(place_bits(keys, torch.tensor([4, 1]), 5), whole[:, [4, 1]])
    assert whole.unique().numel() == whole.numel()
    mapped = torch.func.vmap(lambda k: place_bits(k, torch.arange(6), 5))(keys)
    assert torch.equal(mapped, whole)


def test_normals_of_places_are_normal():
    z = place_normals(place_keys([1, 2], "cpu"), torch.arange(5000), 7, torch.float64)
    assert z.shape == (2, 5000, 7)
    n = z.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(z.pow(power).mean() - moment) < 4 * (variance / n) ** 0.5
    flat = z.reshape(-1, 7)
    assert (flat.T.corrcoef() - torch.eye(7)).abs().max() < 5 / 10_000**0.5
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 4 / n**0.5
    assert abs((z[0] * z[1]).mean()) < 4 / (n / 2) ** 0.5
