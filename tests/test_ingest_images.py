"""Folders of images: what PIL reads is what a set holds, and damaged files are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_sets import nothing_left
from PIL import Image

from hpcsamp.data import Dataset
from hpcsamp.errors import HpcsampError
from hpcsamp.ingest import build
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.images import images
from hpcsamp.ingest.pictures import Pictures

RNG = np.random.default_rng(0)


def picture(*shape, dtype=np.uint8):
    return RNG.integers(0, 256, shape).astype(dtype)


def tree(folder, classes=("cat", "dog", "hen"), each=10, shape=(6, 5, 3), ending="png"):
    """Random images by class; their arrays by path."""
    made = {}
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            path = folder / name / f"{i:03d}.{ending}"
            values = picture(*shape)
            Image.fromarray(values).save(path)
            made[path] = values
    return made


def read(folder, split="train"):
    dataset = Dataset.open(folder, split)
    return dataset.read(range(dataset.count))


def test_a_tree_of_images_is_what_pil_reads(tmp_path):
    made = tree(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("x")
    source = images(tmp_path / "pets", seed=3)
    line = "files that are not images are left out: cat/notes.txt"
    assert source.report == [f"{tmp_path / 'pets'}: {line}"]
    manifest = build(source, tmp_path / "set")
    assert manifest.class_names == ["cat", "dog", "hen"]
    assert manifest.arrays["x"].shape == [3, 6, 5]
    assert manifest.arrays["x"].dtype == "|u1"
    assert manifest.arrays["x"].names == ["red", "green", "blue"]
    assert manifest.splits == {"train": 21, "valid": 3, "test": 6}
    seen = set()
    for split in manifest.splits:
        x, y = read(tmp_path / "set", split)
        for file, values, label in zip(source.files[split], x, y, strict=True):
            assert np.array_equal(np.moveaxis(made[file], -1, 0), values)
            assert file.parent.name == manifest.class_names[label]
            seen.add(file)
    assert seen == set(made)


def test_folders_of_splits_and_every_kind_of_file(tmp_path):
    for split, each in (("train", 4), ("val", 2)):
        tree(tmp_path / "a" / split, each=each, shape=(4, 4), ending="tif")
    manifest = build(images(tmp_path / "a"), tmp_path / "set")
    assert manifest.splits == {"train": 12, "valid": 6}
    assert manifest.arrays["x"].shape == [1, 4, 4]
    wide = picture(4, 6, dtype=np.uint16) * 200
    for name, values in (("wide", wide), ("real", wide.astype("f4") / 3)):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / name / label / "1.tiff")
            np.save(tmp_path / name / label / "2.npy", values)
        source = images(tmp_path / name, fractions={}, pictures=Pictures(layout="hw"))
        x = source.read("train", 0, 4)["x"]
        assert x.dtype == values.dtype
        assert all(np.array_equal(one[0], values) for one in x)
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "p" / "b").mkdir()
    palette = Image.fromarray(picture(5, 5, 3)).quantize(7)
    palette.save(tmp_path / "p" / "a" / "1.png")
    palette.convert("RGB").save(tmp_path / "p" / "b" / "1.png")
    x = images(tmp_path / "p", fractions={}).read("train", 0, 2)["x"]
    assert np.array_equal(x[0], x[1])


def test_sizes_and_colours_are_asked_for(tmp_path):
    made = tree(tmp_path / "a", each=2)
    path = tmp_path / "a" / "hen" / "000.png"
    large = Image.fromarray(picture(9, 8, 3))
    large.save(path)
    with pytest.raises(HpcsampError, match=r"000.png is 9 x 8, .* is 6 x 5; give --size"):
        build(images(tmp_path / "a", fractions={}), tmp_path / "set")
    assert nothing_left(tmp_path / "set")
    source = images(tmp_path / "a", fractions={}, pictures=Pictures(size=(4, 3)))
    x = source.read("train", 0, 6)["x"]
    truth = [
        np.asarray((large if p == path else Image.fromarray(v)).resize((3, 4), Image.BILINEAR))
        for p, v in made.items()
    ]
    assert np.array_equal(x, np.moveaxis(truth, -1, 1))
    large.resize((5, 6)).convert("L").save(path)
    with pytest.raises(HpcsampError, match=r"000.png has 1 colour channels.*give --colour"):
        images(tmp_path / "a", fractions={}).read("train", 0, 6)
    grey = images(tmp_path / "a", fractions={}, pictures=Pictures(colour="grey"))
    assert grey.arrays["x"].shape == [1, 6, 5]
    assert grey.read("train", 0, 6)["x"].shape == (6, 1, 6, 5)


def test_images_are_turned_as_their_camera_was_held(tmp_path):
    tree(tmp_path / "a", classes="ab", each=1, shape=(6, 5, 3))
    values = picture(5, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a" / "a" / "000.png", exif=exif)
    x = images(tmp_path / "a", fractions={}).read("train", 0, 1)["x"]
    assert np.array_equal(x[0], np.moveaxis(np.rot90(values, -1), -1, 0))


def spoil(kind, folder):
    """A folder of pets in which one thing is wrong."""
    tree(folder, each=3)
    path = folder / "dog" / "001.png"
    raw = path.read_bytes()
    if kind == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "frames":
        frames = [Image.fromarray(picture(6, 5)) for _ in range(3)]
        frames[0].save(folder / "dog" / "002.tiff", save_all=True, append_images=frames[1:])
    elif kind == "class":
        (folder / "eel").mkdir()
    elif kind == "loose":
        path.rename(folder / "001.png")
    elif kind == "pickle":
        np.save(folder / "dog" / "001.npy", np.array([{}], object))
    elif kind == "cmyk":
        Image.fromarray(picture(6, 5, 4), "CMYK").save(folder / "dog" / "001.jpg")
    elif kind == "deep":
        from struct import pack
        from zlib import compress, crc32

        def chunk(kind, data):
            return pack(">I", len(data)) + kind + data + pack(">I", crc32(kind + data))

        lines = b"".join(b"\0" + picture(5 * 6).tobytes() for _ in range(6))
        header = pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
                         + chunk(b"IDAT", compress(lines)) + chunk(b"IEND", b""))  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*mode.*parameter:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", ["001.png", "not a readable image", "truncated"]),
        ("text", ["001.png", "unknown format"]),
        ("empty", ["001.png", "unknown format"]),
        ("frames", ["002.tiff", "has 3 images"]),
        ("class", ["eel", "has no images"]),
        ("loose", ["001.png", "--labels FILE", "--masks"]),
        ("pickle", ["001.npy", "not a readable array"]),
        ("cmyk", ["001.jpg", "CMYK", "--colour"]),
        ("deep", ["001.png", "16 bits"]),
    ],
)
def test_bad_images_are_named(tmp_path, kind, words):
    spoil(kind, tmp_path / "pets")
    with pytest.raises(HpcsampError) as caught:
        build(images(tmp_path / "pets", fractions={}), tmp_path / "set")
    assert nothing_left(tmp_path / "set")
    for word in words:
        assert word in str(caught.value)


def test_labels_come_from_a_table(tmp_path):
    made = tree(tmp_path / "a", each=4)
    lines = [f"{p.relative_to(tmp_path / 'a')},{i % 3},{i / 7},{'xyz'[i % 3]},p{i // 4}"
             for i, p in enumerate(made)]  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["filename,kind,age,word,patient", *lines]) + "\n")
    by = Rule(group="patient")
    found = images(tmp_path / "a", labels=table, target=["word"], rule=by)
    assert (found.task, found.class_names) == ("classification", ["x", "y", "z"])
    patients = {s: {p.parent.name for p in files} for s, files in found.files.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 3
    ages = images(tmp_path / "a", labels=table, target=["age"], fractions={})
    assert (ages.task, ages.arrays["y"].names) == ("regression", ["age"])
    assert ages.read("train", 2, 3)["y"].tolist() == [2 / 7]
    assert images(tmp_path / "a", labels=table, target=["kind"]).classes == 3
    with pytest.raises(HpcsampError, match="column 'word' has text"):
        images(tmp_path / "a", labels=table)
    table.write_text(table.read_text() + "cat/000.png,1,1,x,p1\n")
    with pytest.raises(HpcsampError, match=r"line 14: .*000.png is already listed in line 2"):
        images(tmp_path / "a", labels=table, target=["word"])
    table.write_text("filename,kind\ncat/999.png,1\n")
    with pytest.raises(HpcsampError, match=r"line 2: the image .*999.png does not exist"):
        images(tmp_path / "a", labels=table)


def test_images_from_the_command_line_on_two_ranks(tmp_path, hpcsamp):
    tree(tmp_path / "pets", each=30)
    arguments = ["ingest", "images", tmp_path / "pets", "--shard-mb", 2, "--size", 200, 200]
    done = hpcsamp(2, *arguments, "--out", tmp_path / "two")
    assert done.code == 0, done.err
    source = images(tmp_path / "pets", pictures=Pictures(size=(200, 200)))
    build(source, tmp_path / "one", shard_bytes=2 * 10**6)
    files = {p.name for p in (tmp_path / "one").iterdir()}
    assert len(files) > 4
    for name in files:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert one.read_bytes() == two.read_bytes()
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["class_names"][2] == "hen"
    (tmp_path / "pets" / "dog" / "007.png").write_bytes(b"\x89PNG")
    done = hpcsamp(2, *arguments, "--out", tmp_path / "bad")
    assert done.code == 1
    assert len(done.errors) == 1
    assert "dog/007.png" in done.errors[0]


def test_masks_are_labels_of_pixels(tmp_path):
    made = tree(tmp_path / "a", classes=["one"], each=6, shape=(6, 5, 3))
    masks = {}
    for file in made:
        path = tmp_path / "masks" / file.relative_to(tmp_path / "a")
        path.parent.mkdir(parents=True, exist_ok=True)
        masks[file] = RNG.integers(0, 4, (6, 5)).astype(np.uint8)
        Image.fromarray(masks[file]).save(path)
    source = images(tmp_path / "a", masks=tmp_path / "masks", class_name=["a", "b", "c", "d"])
    assert (source.task, source.classes, source.arrays["y"].shape) == ("segmentation", 4, [6, 5])
    y = source.read("train", 0, source.splits["train"])["y"]
    assert np.array_equal(y, [masks[file] for file in source.files["train"]])
    small = Pictures(size=(3, 3))
    y = images(tmp_path / "a", masks=tmp_path / "masks", pictures=small).read("train", 0, 1)["y"]
    first = Image.fromarray(masks[source.files["train"][0]]).resize((3, 3), Image.NEAREST)
    assert np.array_equal(y[0], np.asarray(first))
    path = next(iter(made))
    mask = tmp_path / "masks" / path.relative_to(tmp_path / "a")
    Image.fromarray(np.full((6, 5), 255, np.uint8)).save(mask)
    held = images(tmp_path / "a", masks=tmp_path / "masks", ignore=255, fractions={})
    assert (held.classes, held.missing) == (4, 255)
    assert (held.read("train", 0, 1)["y"] == 255).all()
    few = images(tmp_path / "a", masks=tmp_path / "masks", classes=4, fractions={})
    with pytest.raises(HpcsampError, match=r"000.png: label 255"):
        few.read("train", 0, 1)
    for content, words in (
        (np.zeros((5, 5), np.uint8), ["is 5 x 5, but its image"]),
        (np.zeros((6, 5, 3), np.uint8), ["the pixels are colours"]),
    ):
        Image.fromarray(content).save(mask)
        with pytest.raises(HpcsampError) as caught:
            images(tmp_path / "a", masks=tmp_path / "masks", fractions={}).read("train", 0, 1)
        for word in [str(mask), *words]:
            assert word in str(caught.value)
    mask.unlink()
    with pytest.raises(HpcsampError, match=r"000.png has no mask"):
        images(tmp_path / "a", masks=tmp_path / "masks")


def test_labels_that_come_together_and_masks_are_sets(tmp_path):
    made = tree(tmp_path / "a", classes=["one"], each=8)
    flags = RNG.integers(0, 2, (8, 3))
    rows = [f"{p.relative_to(tmp_path / 'a')},{a},{b},{c}"
            for p, (a, b, c) in zip(made, flags, strict=True)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["file,hot,wet,dark", *rows]) + "\n")
    manifest = build(
        images(tmp_path / "a", labels=tmp_path / "t.csv", fractions={}), tmp_path / "tags"
    )
    assert (manifest.task, manifest.classes) == ("multilabel", 2)
    assert manifest.arrays["y"].names == ["hot", "wet", "dark"]
    assert np.array_equal(read(tmp_path / "tags")[1], flags)
    for i, file in enumerate(made):
        mask = np.full((6, 5), i % 3 if i else 255, np.uint8)
        (tmp_path / "masks" / "one").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / "one" / file.name)
    source = images(tmp_path / "a", masks=tmp_path / "masks", ignore=255, fractions={},
                    class_name=["sea", "land", "ice"])  # fmt: skip
    manifest = build(source, tmp_path / "maps")
    assert (manifest.task, manifest.missing) == ("segmentation", 255)
    assert manifest.class_names == ["sea", "land", "ice"]
    assert read(tmp_path / "maps")[1][:, 0, 0].tolist() == [255, 1, 2, 0, 1, 2, 0, 1]
