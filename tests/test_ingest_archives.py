"""CIFAR-10 from its archives."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError
from hpcsamp.ingest import build
from hpcsamp.ingest.cifar10 import cifar10


def archive(path, version, change=None):
    """A small archive in the official layout; its images, labels, and trusted MD5."""
    generator = np.random.default_rng(0)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    images = {n: generator.integers(0, 256, (20, 3072), np.uint8) for n in names}
    labels = {n: np.arange(20) % 10 for n in names}
    with tarfile.open(path, "w:gz") as tar:
        for n in names:
            if version == "python":
                raw = pickle.dumps({b"data": images[n], b"labels": labels[n].tolist()}, protocol=2)
            else:
                raw = np.column_stack([labels[n].astype(np.uint8), images[n]]).tobytes()
            info = tarfile.TarInfo(f"cifar-10/{n}" + (".bin" if version == "binary" else ""))
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
        if change:
            change(tar)
    return images, {hashlib.md5(path.read_bytes()).hexdigest(): version}


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar10(tmp_path, version):
    images, md5 = archive(tmp_path / "c.tar.gz", version)
    source = cifar10(tmp_path / "c.tar.gz", md5=md5)
    assert source.splits == {"train": 90, "valid": 10, "test": 20}
    build(source, tmp_path / "set")
    x, y = Dataset.open(tmp_path / "set", "test").read(range(20))
    assert np.array_equal(x.reshape(20, -1), images["test_batch"])
    assert y.tolist() == [i % 10 for i in range(20)]
    with pytest.raises(DataError, match=r"the MD5 is .* c58f3010"):
        cifar10(tmp_path / "c.tar.gz")


def test_bad_archives(tmp_path):
    path = tmp_path / "c.tar.gz"

    def add(name, **attributes):
        def change(tar):
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info)

        return change

    for change, word in (
        (add("cifar-10/../../evil"), "outside its folder"),
        (add("/etc/evil"), "outside its folder"),
        (add("cifar-10/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain file"),
    ):
        _, md5 = archive(path, "binary", change)
        with pytest.raises(DataError, match=word):
            cifar10(path, md5=md5)
    assert not (tmp_path.parent / "evil").exists()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or incomplete"):
        cifar10(path, md5={hashlib.md5(path.read_bytes()).hexdigest(): "binary"})


def test_pickles_that_do_more_than_hold_arrays_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("harm done",)

    path = tmp_path / "c.tar.gz"
    raw = pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=2)
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10/data_batch_1")
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    md5 = {hashlib.md5(path.read_bytes()).hexdigest(): "python"}
    with pytest.raises(DataError, match="not allowed in a batch"):
        cifar10(path, md5=md5)
