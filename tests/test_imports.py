"""Large packages are imported without the garbage collector; what a rank's start reads."""

import gc
import inspect
import json
import subprocess
import sys
import weakref

import pytest

from hpcsamp.imports import modules_by_name, without_collection


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


def test_the_module_of_a_frame_is_found_by_its_name():
    frame = sys._getframe()
    cases = (frame, frame.f_back, modules_by_name, frame.f_code, inspect)
    before, found = inspect.getmodule, [inspect.getmodule(case) for case in cases]
    assert found[0] is sys.modules[__name__]
    with modules_by_name():
        assert [inspect.getmodule(case) for case in cases] == found
        assert inspect.getmodule(eval("sys._getframe()", {"sys": sys})) is None
    assert inspect.getmodule is before


#: Starts as a rank other than the first does, and prints what it asked of the file system.
START = """
import json, os, sys
from types import SimpleNamespace

opened, parts = [], 0
real = os.lstat

def lstat(*arguments, **more):
    global parts
    parts += 1
    return real(*arguments, **more)

os.lstat = lstat
sys.addaudithook(lambda event, what: opened.append(str(what[0])) if event == "open" else None)
started = []
sys.addaudithook(
    lambda event, what: started.append(what[0]) if event == "subprocess.Popen" else None
)

from hpcsamp.runtime import bind_device

bind_device("cpu", 1)
from hpcsamp.run import provenance
from hpcsamp.training import loop

loop.Reporter(False, 1).say("not printed")
second = SimpleNamespace(world=SimpleNamespace(gather=lambda name: None))
assert provenance.collect(second, 1) == {}
print(json.dumps({
    "lstat": parts,
    "metadata": sum(os.path.basename(name) in ("METADATA", "PKG-INFO") for name in opened),
    "git": started.count("git"),
    "modules": sum(name.startswith("hpcsamp") for name in sys.modules),
    "rich": "rich" in sys.modules,
}))
"""


def test_the_start_of_a_rank_asks_little_of_the_file_system():
    """A thousand ranks do it at once. Before, 10,600 calls of lstat, 169 files of metadata, git."""
    words = [sys.executable, "-c", START]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    sys.stdout.write(done.stdout)
    assert found["lstat"] < 3000
    assert found["metadata"] < 10
    assert found["git"] == 0
    assert found["modules"] < 500
    assert not found["rich"]
