"""Arrays and tables of users: what a file says is used exactly, or refused."""

import contextlib
import time

import h5py
import numpy as np
import pytest
from data_sets import nothing_left

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, HpcsampError
from hpcsamp.ingest import build
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.npz import npz
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.tables import table


def test_npz_brings_its_own_test_split(tmp_path):
    x, y = np.arange(200.0).reshape(50, 4), np.arange(50) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:7] + 1000, y_test=y[:7])
    source = npz(tmp_path / "a.npz", fractions={"valid": 0.2, "test": 0.3})
    assert (source.task, source.classes) == ("classification", 3)
    assert source.splits == {"train": 41, "valid": 9, "test": 7}  # of each class a fifth
    build(source, tmp_path / "set")
    assert np.array_equal(Dataset.open(tmp_path / "set", "test").read(range(7))[0], x[:7] + 1000)
    np.savez(tmp_path / "b.npz", x=x, y=y.astype(float))
    assert npz(tmp_path / "b.npz").task == "regression"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones(3)}, ["a.npz", "no y"]),
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, ["(3, 2)", "(4,)"]),
        (
            {"x": np.array([1, np.nan, 3.0]), "y": np.ones(3)},
            ["x of train", "1 of 3", "NaN"],
        ),
        ({"x": np.ones(3), "y": np.array([0, -1, 2])}, ["label -1", "position 1"]),
        ({"x": np.array(["a", "b"]), "y": np.ones(2)}, ["numbers are needed"]),
        (
            {
                "x": np.ones(4),
                "y": np.zeros(4, int),
                "x_test": np.ones((4, 2)),
                "y_test": np.zeros(4),
            },
            ["x of test", "(2,)"],
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        npz(tmp_path / "a.npz")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def ingest(folder, *arguments, name="set"):
    """The command line, in this process: the error, if it is one line that a user can act on."""
    from hpcsamp.cli import app

    error = None
    try:
        app(["ingest", *map(str, arguments), "--out", str(folder / name)], standalone_mode=False)
    except HpcsampError as e:
        error = e
    if error is not None:
        assert "\n" not in str(error)
        assert "Error: " not in str(error)  # a name of Python's
        assert nothing_left(folder / name)
    return error


X = np.random.default_rng(0).normal(size=(60, 3))
LABELS = np.arange(60) % 3


def test_splits_share_a_type_that_holds_all_of_them(tmp_path):
    small = np.ones((60, 2), "u1")
    for name, test in (("wide", np.full((6, 2), 300, "<i4")), ("real", np.full((6, 2), 0.7))):
        np.savez(tmp_path / f"{name}.npz", x=small, y=LABELS, x_test=test, y_test=LABELS[:6])
        build(npz(tmp_path / f"{name}.npz", inputs="numbers"), tmp_path / name)
        assert np.array_equal(Dataset.open(tmp_path / name, "test").read(range(6))[0], test)
        assert np.array_equal(Dataset.open(tmp_path / name).read([0])[0], [[1, 1]])
    np.savez(
        tmp_path / "y.npz", x=X, y=LABELS.astype("u1"), x_test=X[:2], y_test=np.array([256, 2])
    )
    source = npz(tmp_path / "y.npz")
    assert source.items["test"]["y"].tolist() == [256, 2]
    assert source.report == [
        "253 of 257 classes do not occur: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 243 more",
        "classes of test that train does not have: 256",
    ]
    np.savez(tmp_path / "u.npz", x=X, y=LABELS.astype("u8"))
    assert npz(tmp_path / "u.npz").items["train"]["y"].dtype == np.int64
    np.savez(tmp_path / "b.npz", x=X, y=LABELS > 0)
    assert npz(tmp_path / "b.npz").task == "classification"


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"x": X, "y": np.r_[LABELS[1:], 10**9]}, [], ["up to 1000000000", "only 4 of"]),
        ({"x": X, "y": np.full(60, 2**63 + 5, "u8")}, [], ["9223372036854775813", "2**53"]),
        (
            {"x": np.full((60, 2), 2**53 + 1), "y": LABELS},
            ["--inputs=numbers"],
            ["x of train", "lose digits"],
        ),
        (
            {"x": np.full((60, 2), 3), "y": LABELS},
            [],
            ["int64", "--inputs ids", "--inputs numbers"],
        ),
        ({"x": LABELS[:, None] - 1, "y": LABELS}, ["--inputs=ids"], ["of train: x", "the id -1"]),
        ({"x": X, "y": LABELS}, ["--inputs=ids"], ["x of train", "float64", "integer type"]),
        ({"x": X, "y": X[:, 0]}, ["--task=classification"], ["position 0", "not a label"]),
        ({"x": X, "y": LABELS[:, None]}, [], ["(60, 1)", "--task classification"]),
        ({"x": X, "y": np.arange(60) * 7}, [], ["60 different", "--task regression"]),
        ({"x": X, "y": LABELS, "x_val": X}, [], ["unknown array 'x_val'", "x_valid"]),
        ({"x": X + 1j, "y": LABELS}, [], ["complex128"]),
        (
            {"x": np.ones((60, 8, 8, 3), "u1"), "y": LABELS},
            [],
            ["3 channels on the last axis, or 8 channels of 8 x 3", "--layout hwc"],
        ),
        ({"x": np.ones((60, 8, 8), "u1"), "y": LABELS}, [], ["--layout hw"]),
        ({"x": X, "y": LABELS}, ["--layout=hwc"], ["(3,)", "--layout hwc"]),
        ({"x": X * 1e300, "y": X[:, 0]}, [], ["channel 0 holds", "above 1e+100"]),
        ({"x": X * 1e-310, "y": X[:, 0]}, [], ["channel 0", "e-310"]),
        ({"x": X, "y": X[:, 0] + 1e9}, [], ["1e+09", "--normalize-y"]),
        ({"x": X, "y": X[:, 0] * 1e39}, [], ["e+39", "--normalize-y"]),
        ({"x": X, "y": X[:, 0], "x_test": X, "y_test": X[:, :1]}, [], ["y of test", "(1,)"]),
        ({"x": np.ones((60, 0)), "y": X[:, 0]}, [], ["(60, 0)"]),
    ],
)
def test_arrays_that_would_be_taken_wrongly(tmp_path, arrays, options, words):
    np.savez(tmp_path / "a.npz", **arrays)
    error = ingest(tmp_path, "npz", tmp_path / "a.npz", *options)
    for word in ["a.npz", *words]:
        assert word in str(error)


def test_images_are_stored_with_their_channels_first(tmp_path):
    images = np.arange(60.0 * 5 * 6 * 3).reshape(60, 5, 6, 3)
    np.savez(tmp_path / "a.npz", x=images, y=LABELS)
    x = npz(tmp_path / "a.npz", layout="hwc", fractions={}).items["train"]["x"]
    assert np.array_equal(x, images.transpose(0, 3, 1, 2))
    assert npz(tmp_path / "a.npz", layout="chw").arrays["x"].shape == [5, 6, 3]
    np.savez(tmp_path / "b.npz", x=images[..., 0].astype("u1"), y=LABELS)
    assert npz(tmp_path / "b.npz", layout="hw").arrays["x"].shape == [1, 5, 6]


def test_files_of_other_kinds_are_named(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with h5py.File(tmp_path / "a.nc", "w") as f:
        f["x"] = X
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and more")
    (tmp_path / "a.arrow").write_bytes(b"ARROW1\0\0")
    (tmp_path / "folder").mkdir()
    for name, word in (
        ("a.npy", ".npy file"),
        ("a.nc", "netCDF"),
        ("a.parquet", "parquet"),
        ("a.arrow", "arrow"),
        ("folder", "directory"),
        ("n" * 300, "too long"),
    ):
        assert word in str(ingest(tmp_path, "npz", tmp_path / name))
    np.savez(tmp_path / "a.npz", x=X, y=LABELS)
    assert "too long" in str(ingest(tmp_path, "npz", tmp_path / "a.npz", name="o" * 300))


def test_damaged_archives_are_refused_or_hold_what_they_held(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=LABELS)
    whole = npz(tmp_path / "a.npz").items
    raw = (tmp_path / "a.npz").read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "damaged.npz"
    for case in range(150):
        changed = bytearray(raw[: generator.integers(len(raw))] if case % 5 == 0 else raw)
        changed[generator.integers(len(changed))] ^= 1 << generator.integers(8)
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            found = npz(path).items
            for split, items in whole.items():
                assert np.array_equal(found[split]["x"], items["x"])


def test_constant_columns_are_told_and_have_no_spread(tmp_path, capsys):
    rows = "".join(f"{i % 7 + 0.5},0.1,{i % 5}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,b,c\n{rows}")
    assert ingest(tmp_path, "csv", tmp_path / "t.csv", "--target=c") is None
    assert "constant in train, so they carry no information: b of x" in capsys.readouterr().out
    stats = Dataset.open(tmp_path / "set").stats
    assert (stats.std[1], stats.mean[1]) == (0, 0.1)  # no rounding that would be divided by


def test_large_offsets_do_not_eat_the_digits_of_a_batch(tmp_path):
    """Seconds since 1970 are 128 apart in float32; standardised they are not."""
    import torch

    from hpcsamp.data import Loader
    from hpcsamp.grid import init

    seconds = 1.7e9 + np.arange(200)
    np.savez(
        tmp_path / "a.npz", x=np.column_stack([seconds, seconds * 1e60]), y=X[:1].repeat(200, 0)
    )
    build(npz(tmp_path / "a.npz", fractions={}), tmp_path / "set")
    with Loader(tmp_path / "set", init("world"), batch=200, shuffle=False) as loader:
        batch = next(iter(loader))
    expected = (np.arange(200) - 99.5) / np.arange(200).std()
    assert batch.x.dtype == torch.float32
    for column in range(2):
        assert np.allclose(batch.x[:, column], expected, rtol=0, atol=1e-5)


def test_arrays_in_memory_are_the_same_set_only_with_the_same_content():
    from hpcsamp.ingest.arrays import from_arrays
    from hpcsamp.ingest.build import identity

    def uid(x):
        source = from_arrays({"train": (x, LABELS)}, name="mine", source={})
        return identity(source, [])

    assert uid(X) == uid(X.copy())
    assert uid(X) != uid(X + 1)


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 something")
    with pytest.raises(DataError, match=r"a.npz: not an .npz"):
        npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.array([{}], object), y=np.ones(1))
    with pytest.raises(DataError, match=r"b.npz"):  # pickles from outside are not loaded
        npz(tmp_path / "b.npz")


def test_csv(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{i * 0.5},{i * 2}\n" for i in range(20)]
    path.write_text("a,b,c\n" + "".join(rows))
    source = table(path, ["c"], fractions={"test": 0.25})
    build(source, tmp_path / "set")
    x, y = Dataset.open(tmp_path / "set").read(range(15))
    assert np.array_equal(x[:, 1], x[:, 0] * 0.5)
    assert np.array_equal(y, x[:, 0] * 2)
    several = table(path, ["a", "c"], features=["b"])
    assert several.arrays["y"].shape == [2]
    assert several.arrays["x"].shape == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,four\n", ["line 3", "column 'b'", "'four'"]),
        ("a,b\n1,2\n,4\n", ["line 3", "column 'a'", "''"]),
        ("a,b\n1,nan\n", ["line 2", "column 'b'", "'nan'"]),
        ("a,b\n1,2\n3\n", ["line 3", "1 cells", "header has 2"]),
        ("a,b\n", ["no rows"]),
        ("", ["empty"]),
        ("a,b,a\n1,2,3\n", ["columns 1, 3", "'a'"]),
        (",b\n0,2\n", ["column 1 has no name"]),
        ("1,2\n3,4\n", ["first line has numbers", "names"]),
        ("a;b\n1;2\n", ["'a;b'", "--delimiter ';'"]),
        ("a,b\n1,2,\n", ["line 2", "3 cells", "header has 2"]),
        ("a,b,\n1,2,3\n", ["line 2", "a delimiter at its end"]),
        ('a,b\n"1,2\n', ["not a text table", "end of data"]),
        ("a,b\n45.123,2\n46.001,3\n", ["45.123 or 45123", "--thousands ."]),
        ("a,b\n45.123,2\n950,1952\n", ["column 'a'", "--decimal ."]),
        ("a,b\n1,low\n", ["column 'b'", "if 'b' holds classes, give --task classification"]),
        ("a\0,b\n1,2\n", ["'a\\x00'"]),
        ("a,b\n1,2\0\n", ["line 2", "'2\\x00'"]),
        ("a,b\n1e300,2\n-1e300,4\n", ["column 'a' holds 1e+300", "rescale"]),
        (b"a,\xfc,b\n1,2,3\n", ["UTF-8"]),
        ("a,b\n1,2\n".encode("utf-16"), ["UTF-8"]),
        *[
            (f'a,b\n1,2\n"{cell}",2\n', ["line 3", "column 'a'", repr(cell)])
            for cell in (
                "1_000", "\u0663", "inf", "0x10", "12%", "1 000", "1,000", "NA", "true",
                "2020-01-01", "1e999", "1e-999", "9007199254740993", "1'000", "\u22125",
            )
        ],
    ],
)  # fmt: skip
def test_bad_csv(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        build(table(path, ["b"], fractions={}), tmp_path / "set")
    assert nothing_left(tmp_path / "set")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def columns_of(tmp_path, text, *targets, **options):
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8-sig"))
    source = table(tmp_path / "t.csv", targets or ["b"], fractions={}, **options)
    items = source.read("train", 0, source.splits["train"])
    return items["x"].tolist(), items["y"].tolist()


def test_numbers_are_read_as_the_file_writes_them(tmp_path):
    def read(text, *targets, **options):
        return columns_of(tmp_path, text, *targets, **options)

    german = Notation(",", ".")
    assert read("a,b,\r\n1.5,2,\r\n.5,+3e1,\r\n") == ([[1.5], [0.5]], [2, 30])
    assert read("a\tb\n1\t2\n", delimiter="\\t") == ([[1]], [2])
    assert read("a;b\n1.234,5;2\n-5;3\n", delimiter=";", notation=german) == (
        [[1234.5], [-5]],
        [2, 3],
    )
    # a decimal decides a file; a thousand without a separator (or a year) decides its column
    assert read("a,b\n45.123,2\n950,3.5\n")[0] == [[45.123], [950]]
    assert read('a,b\n"45.639",2\n"0.5",3\n')[0] == [[45.639], [0.5]]
    assert read("a,b\n45.123,2\n46.1,3\n")[0] == [[45.123], [46.1]]
    assert read("a,b\n45.123,2\n4600,3\n")[0] == [[45.123], [4600]]
    ambiguous = "a,b\n45.123,2\n46.001,3\n"
    assert read(ambiguous, notation=Notation("."))[0] == [[45.123], [46.001]]
    assert read(ambiguous, notation=Notation(thousands="."))[0] == [[45123], [46001]]
    with pytest.raises(DataError, match=r"'46.1' is not a finite number"):
        read("a,b\n45.123,2\n46.1,3\n", notation=Notation(thousands="."))
    # columns that are not used may hold anything
    assert read("day,a,b\nMon,1,2\n", features=["a"]) == ([[1]], [2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--feature=a", "--feature=b"], ["'b'", "--target", "--feature"]),
        (["--feature=a", "--feature=a"], ["'a'", "more than once"]),
        (["--target=b"], ["'b'", "more than once"]),
        (["--delimiter=;;"], ["';;'", "one character"]),
        (["--delimiter="], ["''", "one character"]),
        (["--decimal=;"], ["--decimal ';'"]),
        (["--decimal=,", "--thousands=,"], ["both ','"]),
        (["--shard-mb=inf"], ["--shard-mb inf"]),
    ],
)
def test_wrong_options_of_tables(tmp_path, options, words):
    (tmp_path / "t.csv").write_text("a,b\n1.5,2\n3,4\n")
    error = ingest(tmp_path, "csv", tmp_path / "t.csv", "--target=b", *options)
    assert error.exit_code == 2
    for word in words:
        assert word in str(error)


def test_columns_that_are_rarely_meant_are_told(tmp_path):
    rows = "".join(f"{i},{i * i % 7},{i % 5},{i % 5}\n" for i in range(40))
    (tmp_path / "t.csv").write_text(f"id,a,copy,b\n{rows}")
    told = " ".join(table(tmp_path / "t.csv", ["b"]).report)
    assert "'id' counts the rows" in told
    assert "'copy' is equal to the target 'b'" in told


def test_wide_tables_cost_what_their_cells_cost(tmp_path):
    """A look-up of each name among all names took 3 s for 30,000 columns, 10^6 took an hour."""
    wide = 100_000
    names = ",".join(f"column{i}" for i in range(wide))
    (tmp_path / "t.csv").write_text(f"{names}\n" + "\n".join([",".join(["0.5"] * wide)] * 3))
    begin = time.process_time()
    build(table(tmp_path / "t.csv", ["column7", "column99999"], fractions={}), tmp_path / "set")
    assert time.process_time() - begin < 30
    x, y = Dataset.open(tmp_path / "set").read([0])
    assert (x.shape, y.shape) == ((1, wide - 2), (1, 2))


def test_bad_csv_from_the_command_line(tmp_path, hpcsamp):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,four\n")
    done = hpcsamp(2, "ingest", "csv", tmp_path / "t.csv", "--target", "b", "--out", tmp_path / "s")
    assert done.code == 1
    assert len(done.errors) == 1, done.err
    assert "line 3, column 'b': 'four'" in done.errors[0]
    done = hpcsamp(1, "ingest", "csv", tmp_path / "t.csv", "--target", "z", "--out", tmp_path / "s")
    assert done.code in (1, 2)
    assert nothing_left(tmp_path / "s")


def test_names_of_columns_and_classes_are_kept(tmp_path):
    import xarray

    (tmp_path / "t.csv").write_text("a,wind speed,u,v\n1,2,3,4\n2,1,4,3\n3,3,3,3\n")
    source = table(tmp_path / "t.csv", ["u", "v"], fractions={})
    source.arrays["x"] = source.arrays["x"].model_copy(update={"units": "wind speed [m/s], a [K]"})
    manifest = build(source, tmp_path / "set")
    assert manifest.arrays["x"].names == ["a", "wind speed"]
    assert manifest.arrays["x"].row_units == ["K", "m/s"]
    with xarray.open_dataset(tmp_path / "set" / "shard-00000.h5", phony_dims="sort") as opened:
        assert opened["feature"].values.tolist() == ["a", "wind speed"]
        assert opened["y"].dims == ("index", "target")
    one = build(table(tmp_path / "t.csv", ["u"], fractions={}), tmp_path / "one")
    assert one.arrays["y"].names == ["u"]
    source = npz_of(tmp_path, x=X, y=LABELS)
    source.class_names = ["dog", "cat"]
    with pytest.raises(HpcsampError, match="there are 2 names for 3 classes"):
        build(source, tmp_path / "pets")
    source.class_names = ["dog", "cat", "hen"]
    build(source, tmp_path / "pets")
    assert Dataset.open(tmp_path / "pets").manifest.class_names == ["dog", "cat", "hen"]
    with h5py.File(tmp_path / "pets" / "shard-00000.h5") as f:
        assert f["y"].attrs["class_names"] == '["dog", "cat", "hen"]'


def npz_of(folder, **arrays):
    np.savez(folder / "made.npz", **arrays)
    return npz(folder / "made.npz")


def test_arrays_are_dealt_by_an_array_and_in_order(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=LABELS, who=np.arange(60) // 6)
    source = npz(tmp_path / "a.npz", rule=Rule(group="who"))
    x = {split: items["x"] for split, items in source.items.items()}
    who = {s: {int(np.flatnonzero((row == X).all(1))[0]) // 6 for row in v} for s, v in x.items()}
    assert sum(map(len, who.values())) == len(set.union(*who.values())) == 10
    np.savez(tmp_path / "b.npz", x=X, y=LABELS)
    late = npz(tmp_path / "b.npz", rule=Rule(chronological="rows", gap=1))
    assert np.array_equal(late.items["test"]["x"], X[49:])
    with pytest.raises(HpcsampError, match="no column 'who'"):
        npz(tmp_path / "b.npz", rule=Rule(group="who"))


@pytest.mark.parametrize("column", ["float", "time", "word"])
def test_groups_and_times_fill_the_splits_that_were_asked_for(column):
    from hpcsamp.ingest.division import divide

    generator = np.random.default_rng(1)
    number = generator.integers(0, 40, 500)
    values = {
        "float": number / 2,
        "time": np.datetime64("2020-01-01") + number * np.timedelta64(1, "D"),
        "word": np.asarray([f"p{n}" for n in number], object),
    }[column]
    parts, _ = divide(500, {"valid": 0.2, "test": 0.1}, 3, Rule(group="a"), lambda _: values)
    found = {s: set(number[rows].tolist()) for s, rows in parts.items()}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(500))
    assert sum(map(len, found.values())) == 40
    sizes = {s: len(rows) / 500 for s, rows in parts.items()}
    assert abs(sizes["valid"] - 0.2) < 0.05
    assert abs(sizes["test"] - 0.1) < 0.05
    if column != "word":
        rule = Rule(chronological="a")
        parts, _ = divide(500, {"valid": 0.2, "test": 0.1}, 3, rule, lambda _: values)
        assert number[parts["train"]].max() < number[parts["valid"]].min()
        assert number[parts["valid"]].max() < number[parts["test"]].min()
