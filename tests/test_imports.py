"""Large packages are imported without the garbage collector."""

import gc
import weakref

import pytest

from hpcsamp.imports import without_collection


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_it_was_even_after_an_error(on):
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(ImportError, match="off"), without_collection():
            raise ImportError("off" if not gc.isenabled() else "on")
        assert gc.isenabled() == on
    finally:
        (gc.enable if was else gc.disable)()


def test_what_was_made_is_collected_later_and_what_was_frozen_stays_so():
    class Thing:
        pass

    def cycle():
        one = Thing()
        one.self = one
        return weakref.ref(one)

    with without_collection():
        there = cycle()
    gc.collect()
    assert there() is None
    gc.freeze()
    try:
        with without_collection():
            cycle()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
