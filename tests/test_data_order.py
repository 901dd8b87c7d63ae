"""Order: against brute force, exact coverage, any grid, any step, and fast."""

import time

import numpy as np
import pytest

from hpcsamp.data.order import Order, check_batch, stream_count
from hpcsamp.errors import UsageError
from hpcsamp.streams import Purpose, numpy_generator


def chunks_of(count, size):
    full, rest = divmod(count, size)
    return np.array([size] * full + [rest] * bool(rest))


def brute_force(count, sizes, batch, pool, seed, epoch):
    """The pool shuffle, written down item by item; ``None`` marks padding."""
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    row = []  # (chunk's place in the epoch, item)
    for place, chunk in enumerate(
        numpy_generator(seed, Purpose.ORDER, epoch, 0).permutation(len(sizes))
    ):
        row += [(place, int(first[chunk]) + i) for i in range(sizes[chunk])]
    streams = stream_count(batch)
    each = batch // streams
    dealt = []
    for s in range(streams):
        own = row[count * s // streams : count * (s + 1) // streams]
        places = sorted({place for place, _ in own})
        items = []
        for number in range(0, len(places), pool):
            members = set(places[number : number + pool])
            pooled = np.array([item for place, item in own if place in members])
            generator = numpy_generator(seed, Purpose.ORDER, epoch, 1, s, number // pool)
            items += generator.permutation(pooled).tolist()
        dealt.append(items)
    steps = -(-max(map(len, dealt)) // each)
    return [
        [
            items[t * each + i] if t * each + i < len(items) else None
            for items in dealt
            for i in range(each)
        ]
        for t in range(steps)
    ]


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (1003, 64), (257, 10), (96, 96)])
def test_pool_shuffle_equals_brute_force(count, size):
    sizes = chunks_of(count, size)
    order = Order(count, 32, seed=3, shuffle="pool", tail="mask", chunks=sizes, pool=3)
    expected = brute_force(count, sizes, 32, 3, seed=3, epoch=5)
    assert order.steps == len(expected)
    for t in reversed(range(order.steps)):  # any step first: no state but (seed, epoch, step)
        step = order.step(5, t)
        assert [
            i if w else None for i, w in zip(step.items.tolist(), step.weight, strict=True)
        ] == expected[t]
        assert step.count == sum(i is not None for i in expected[t])


@pytest.mark.parametrize("shuffle", ["global", "pool", "none"])
@pytest.mark.parametrize("count", [1000, 1003, 64])
def test_every_item_once_whatever_the_grid(shuffle, count):
    batch = 48 if count > 64 else 16
    order = Order(count, batch, 1, shuffle, "mask", chunks_of(count, 30))
    for epoch in (0, 7):
        seen = []
        for t in range(order.steps):
            step = order.step(epoch, t)
            assert len(step.items) == batch
            seen += step.items[step.weight > 0].tolist()
            for groups in (1, 2, 4, 8):
                parts = [step.part(d, groups) for d in range(groups)]
                assert np.concatenate([p.items for p in parts]).tolist() == step.items.tolist()
                assert sum(p.count for p in parts) == step.count
        assert sorted(seen) == list(range(count))
    if shuffle != "none":
        assert order.step(0, 0).items.tolist() != order.step(1, 0).items.tolist()


@pytest.mark.parametrize("shuffle", ["global", "pool"])
def test_dropped_tail_has_full_steps_without_repeats(shuffle):
    order = Order(1003, 48, 1, shuffle, "drop", chunks_of(1003, 30))
    steps = [order.step(2, t) for t in range(order.steps)]
    items = np.concatenate([s.items for s in steps])
    assert all(s.count == 48 for s in steps)
    assert len(set(items.tolist())) == len(items)
    assert 1003 - len(items) < 2 * 48


def test_a_restored_step_equals_the_one_that_was_reached():
    sizes = chunks_of(5000, 64)
    walked = Order(5000, 32, 9, "pool", "drop", sizes)
    reached = [walked.step(3, t).items.tolist() for t in range(walked.steps)]
    for t in (0, 1, 77, walked.steps - 1):
        restored = Order(5000, 32, 9, "pool", "drop", sizes)
        assert restored.step(3, t).items.tolist() == reached[t]


@pytest.mark.parametrize("shuffle", ["global", "pool"])
@pytest.mark.parametrize("count", [50_000, 1_281_167])
def test_restore_takes_under_100_ms(shuffle, count):
    """Best of three, of a fresh order at a random step, in time of the processor."""
    chunks = chunks_of(count, 7 if count > 10**6 else 682)
    best = np.inf
    for attempt in range(3):
        begun = time.process_time()
        order = Order(count, 256, 1, shuffle, "drop", chunks)
        order.step(900 + attempt, order.steps * 2 // 3)
        best = min(best, time.process_time() - begun)
    assert best < 0.1


def test_bad_batches_are_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"30 items .* D = 4 "):
        check_batch(30, 4)
    with pytest.raises(UsageError, match=r"batch of 64 items .* 50 items"):
        Order(50, 64)
    with pytest.raises(UsageError, match=r"step 9 is outside an epoch of 5 steps"):
        Order(50, 10).step(0, 9)
    with pytest.raises(UsageError, match=r"the chunks hold 40 items, but the split has 50"):
        Order(50, 10, shuffle="pool", chunks=np.array([40]))
