"""Tables of every format: pandas reads the same numbers, dates, categories and classes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import nothing_left

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, HpcsampError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.arrow import arrow, parquet
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.netcdf import netcdf
from hpcsamp.ingest.preparation import Preparation
from hpcsamp.ingest.tables import table

RNG = np.random.default_rng(0)
COUNT = 120


def frame():
    """A table of all kinds of columns."""
    return pd.DataFrame(
        {
            "when": pd.date_range("2019-11-03 05:00", periods=COUNT, freq="7h"),
            "colour": RNG.choice(["red", "green", "blue"], COUNT),
            "grade": RNG.integers(1, 6, COUNT),
            "speed": RNG.normal(5, 2, COUNT).round(4),
            "kind": RNG.choice(["dog", "cat"], COUNT),
            "load": RNG.normal(50, 9, COUNT).round(4),
            "patient": RNG.integers(0, 9, COUNT),
        }
    )


def written(folder, data, kind, **options):
    """The table in a file of a kind, and the function that reads it."""
    path = folder / f"t.{kind}"
    if kind == "csv":
        data.to_csv(path, index=False, **options)
        return path, table
    if kind == "parquet":
        pq.write_table(pa.Table.from_pandas(data), path, row_group_size=37)
        return [path], parquet
    with pa.OSFile(str(path), "wb") as sink:
        content = pa.Table.from_pandas(data)
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with make(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=29)
    return [path], arrow


def whole(source):
    """All items of a source in the order of the rows."""
    items = [source.read(split, 0, count) for split, count in source.splits.items()]
    order = np.argsort(np.concatenate([source.rows[s] for s in source.splits]))
    return tuple(np.concatenate([one[array] for one in items])[order] for array in "xy")


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "stream"])
def test_columns_are_what_pandas_reads(tmp_path, kind):
    data = frame()
    path, read = written(tmp_path, data, kind)
    how = Preparation(
        drop=["kind"], date=["when=seconds+day+week+year"], onehot=["colour", "grade"],
        unit=["speed=m/s", "load=MW"],
    )  # fmt: skip
    source = read(path, ["load"], preparation=how, rule=Rule(group="patient"))
    x, y = whole(source)
    when = data["when"]
    seconds = (when - pd.Timestamp(0)).dt.total_seconds()
    start = when.dt.to_period("Y").dt.start_time
    length = np.where(when.dt.is_leap_year, 366, 365)
    turns = [
        (seconds % 86400) / 86400,
        (when.dt.day_of_week + (seconds % 86400) / 86400) / 7,
        (when - start).dt.total_seconds() / 86400 / length,
    ]
    truth = [seconds, *(f(2 * np.pi * t) for t in turns for f in (np.sin, np.cos))]
    truth += list(pd.get_dummies(data["colour"]).to_numpy().T)
    truth += list(pd.get_dummies(data["grade"]).to_numpy().T)
    truth.append(data["speed"])
    assert np.allclose(x, np.stack(truth, axis=1), rtol=1e-12, atol=1e-9)
    assert np.array_equal(y, data["load"])
    names = source.arrays["x"].names
    assert names[:3] == ["when", "when: sin of day", "when: cos of day"]
    assert names[7:10] == ["colour=blue", "colour=green", "colour=red"]
    assert names[-1] == "speed"
    assert source.arrays["x"].units == "when [seconds since 1970-01-01], speed [m/s]"
    assert source.arrays["y"].units == "MW"
    groups = {s: set(data["patient"][source.rows[s]]) for s in source.splits}
    assert len(groups) == 3
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    build(source, tmp_path / "set")
    assert Dataset.open(tmp_path / "set").manifest.arrays["x"].row_units[-1] == "m/s"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_words_are_classes_and_ids(tmp_path, kind):
    data = frame()
    path, read = written(tmp_path, data, kind)
    how = Preparation(ids=["colour", "grade"])
    source = read(
        path, ["kind"], features=["colour", "grade"], preparation=how, task="classification"
    )
    x, y = whole(source)
    assert (source.inputs, source.class_names) == ("ids", ["cat", "dog"])
    assert np.array_equal(y, (data["kind"] == "dog").astype(int))
    assert np.array_equal(x[:, 0], pd.Categorical(data["colour"]).codes)
    assert np.array_equal(x[:, 1], data["grade"])  # whole numbers are ids as they are
    assert source.report == ["column 'colour' has 3 ids"]
    manifest = build(source, tmp_path / "set")
    assert manifest.class_names == ["cat", "dog"]
    assert manifest.source["preparation"]["features"][0] == {
        "column": "colour",
        "ids": ["blue", "green", "red"],
    }


def test_missing_values_are_refused_dropped_or_filled(tmp_path):
    data = frame().drop(columns=["when", "kind", "patient"])
    data.loc[[3, 40, 77], "speed"] = np.nan
    data.loc[[5], "load"] = np.nan
    data.loc[[6], "colour"] = None
    for kind, where in (("csv", "line 5, column 'speed'"), ("parquet", "row 3, column 'speed'")):
        path, read = written(tmp_path, data, kind)
        with pytest.raises(DataError) as caught:
            read(path, ["load"], preparation=Preparation(onehot=["colour"]))
        assert where in str(caught.value)
        assert "--missing" in str(caught.value)
        dropped = read(path, ["load"], preparation=Preparation(onehot=["colour"], missing="drop"))
        kept = data.dropna()
        assert np.array_equal(whole(dropped)[0][:, -1], kept["speed"])
        assert np.array_equal(whole(dropped)[1], kept["load"])
        assert "5 of 120 rows have missing values and are left out" in dropped.report[0]
        filled = read(path, ["load"], preparation=Preparation(onehot=["colour"], missing="mean"))
        x, y = whole(filled)
        known = data.drop(index=5)
        mean = data["speed"][filled.rows["train"]].mean()
        assert np.allclose(x[:, -1], known["speed"].fillna(mean), rtol=1e-12)
        assert np.array_equal(y, known["load"])
        assert x[5, :3].tolist() == [0, 0, 0]  # no word, none of the columns
        words = "missing categories are encoded as none of the categories"
        assert filled.report[1:] == [
            f"column 'colour': 1 {words}",
            f"column 'speed': 3 missing values are replaced by {mean:.5g}, the mean of train",
        ]


def test_rows_are_dealt_by_a_column_in_time_and_by_files(tmp_path):
    data = frame()[["when", "speed", "load"]].sample(frac=1, random_state=0)
    data["part"] = np.resize(["train", "Train", "val", "test"], COUNT)
    path, read = written(tmp_path, data, "csv")
    source = read(path, ["load"], rule=Rule(split_column="part"), preparation=Preparation(
        drop=["when"]))  # fmt: skip
    assert source.splits == {"train": 60, "valid": 30, "test": 30}
    assert source.rows["valid"].tolist() == np.flatnonzero(data["part"] == "val").tolist()
    assert source.arrays["x"].names == ["speed"]
    times = data["when"].to_numpy()
    for kind in ("csv", "parquet"):
        path, read = written(tmp_path, data, kind)
        source = read(path, ["load"], features=["speed"], rule=Rule(chronological="when", gap=2))
        assert source.splits == {"train": 84, "valid": 10, "test": 22}
        last = {s: times[rows].max() for s, rows in source.rows.items()}
        first = {s: times[rows].min() for s, rows in source.rows.items()}
        hours = np.timedelta64(7, "h")
        assert first["valid"] - last["train"] == first["test"] - last["valid"] == 3 * hours
    other = tmp_path / "other.csv"
    data[:20].to_csv(other, index=False)
    source = table(tmp_path / "t.csv", ["load"], features=["speed"], test_file=other)
    assert source.splits == {"train": 108, "valid": 12, "test": 20}
    assert np.array_equal(source.read("test", 0, 20)["y"], data["load"][:20])
    for rule, words in (
        (Rule(split_column="load"), ["is not a split"]),
        (Rule(chronological="part"), ["is not an ISO 8601 time"]),
        (Rule(group="who"), ["no column 'who'"]),
    ):
        with pytest.raises(HpcsampError) as caught:
            table(tmp_path / "t.csv", ["load"], features=["speed"], rule=rule)
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(UsageError, match="--split-column and --group exclude"):
        Rule(split_column="a", group="b")


def huggingface(folder, data, features):
    """A folder as datasets saves it: state.json, and Arrow streams with its notes."""
    folder.mkdir(parents=True)
    note = {"info": {"features": features}}
    content = data.replace_schema_metadata({"huggingface": json.dumps(note)})
    for number, part in enumerate((content[:7], content[7:])):
        with (
            pa.OSFile(str(folder / f"data-{number:05d}-of-00002.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, content.schema) as writer,
        ):
            writer.write_table(part, max_chunksize=3)
    files = [{"filename": f"data-{n:05d}-of-00002.arrow"} for n in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def test_folders_of_datasets_with_images_and_names_of_classes(tmp_path):
    import io

    from PIL import Image

    images = RNG.integers(0, 256, (20, 5, 4, 3), np.uint8)

    def encoded(image):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        return {"bytes": stream.getvalue(), "path": "x.png"}

    data = pa.table({"image": [encoded(i) for i in images], "label": np.arange(20) % 2})
    notes = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog", "hen"]},
    }
    huggingface(tmp_path / "pets" / "train", data, notes)
    huggingface(tmp_path / "pets" / "test", data[:4], notes)
    (tmp_path / "pets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = arrow([tmp_path / "pets"], ["label"], fractions={"valid": 0.2, "test": 0.2})
    assert source.splits == {"train": 16, "valid": 4, "test": 4}
    assert (source.classes, source.class_names) == (3, ["cat", "dog", "hen"])
    manifest = build(source, tmp_path / "set")
    assert manifest.arrays["x"].shape == [3, 5, 4]
    x, y = Dataset.open(tmp_path / "set").read(range(16))
    assert np.array_equal(x, np.moveaxis(images, -1, 1)[source.rows["train"]])
    assert np.array_equal(y, source.rows["train"] % 2)


def test_lists_are_vectors_and_decimals_are_numbers(tmp_path):
    from decimal import Decimal

    vectors = RNG.normal(size=(10, 2, 3)).astype("f4")
    data = pa.table({
        "v": [v.tolist() for v in vectors],
        "d": [Decimal("1.25")] * 9 + [None],
        "b": [True, False] * 5,
        "y": RNG.normal(size=10),
    })  # fmt: skip
    pq.write_table(data, tmp_path / "a.parquet", row_group_size=3)
    source = parquet([tmp_path / "a.parquet"], ["y"], features=["v"], fractions={})
    assert source.arrays["x"].shape == [2, 3]
    assert np.array_equal(whole(source)[0].astype("f4"), vectors)
    how = Preparation(missing="mean")
    x, _ = whole(parquet([tmp_path / "a.parquet"], ["y"], fractions={}, preparation=how))
    assert x.shape == (10, 8)
    assert (x[:, 6] == 1.25).all()
    assert x[:, 7].tolist() == [1, 0] * 5
    for rows in (2, 1):  # within a group of rows, and between two
        ragged = pa.table({"v": [[1.0], [1.0, 2.0]], "y": [1.0, 2.0]})
        pq.write_table(ragged, tmp_path / "b.parquet", row_group_size=rows)
        words = r"column 'v': lists have different lengths: .*1.* and.*2.*; pad them .*from_named"
        with pytest.raises(DataError, match=words):
            parquet([tmp_path / "b.parquet"], ["y"], fractions={})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["'when' has times", "--date when=cyclical"]),
        ({"drop": ["when"]}, ["'colour' has text", "--onehot colour", "--ids colour"]),
        ({"date": ["when"]}, ["--date when", "cyclical"]),
        ({"date": ["when=month"]}, ["'month'", "seconds, day, week"]),
        (
            {"date": ["speed=day"], "drop": ["when", "colour", "kind"]},
            ["'speed'", "dtype", "needs dates or times"],
        ),
        ({"drop": ["nothing"]}, ["no column 'nothing'"]),
        ({"unit": ["speed"]}, ["COLUMN=UNIT"]),
        ({"onehot": ["load"]}, ["'load' is not a feature"]),
    ],
)
def test_what_becomes_of_a_column_is_asked(tmp_path, options, words):
    path, read = written(tmp_path, frame(), "parquet")
    with pytest.raises(HpcsampError) as caught:
        read(path, ["load"], preparation=Preparation(**options))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_damaged_files_are_named(tmp_path):
    data = frame()[["speed", "load"]]
    for kind in ("parquet", "arrow", "stream"):
        (path,), read = written(tmp_path, data, kind)
        raw = path.read_bytes()
        for changed in (raw[: len(raw) // 2], b"", b"text"):
            path.write_bytes(changed)
            with pytest.raises(DataError, match=f"t.{kind}"):
                build(read([path], ["load"]), tmp_path / "set")
            assert nothing_left(tmp_path / "set")
    data.loc[3, "load"] = np.inf
    (path,), read = written(tmp_path, data, "parquet")
    with pytest.raises(DataError, match="row 3, column 'load': the value is infinite"):
        read([path], ["load"])


def test_parquet_on_two_ranks_and_wrong_options_of_the_command(tmp_path, hpcsamp):
    data = pd.DataFrame({f"c{i}": RNG.normal(size=20_000) for i in range(20)})
    data["when"] = pd.date_range("2020-01-01", periods=len(data), freq="h")
    path, _ = written(tmp_path, data, "parquet")
    arguments = ["ingest", "parquet", *path, "--target", "c3", "--date", "when=cyclical",
                 "--shard-mb", 1]  # fmt: skip
    done = hpcsamp(2, *arguments, "--out", tmp_path / "two")
    assert done.code == 0, done.err
    source = parquet(path, ["c3"], preparation=Preparation(date=["when=cyclical"]))
    build(source, tmp_path / "one", shard_bytes=10**6)
    files = {p.name for p in (tmp_path / "one").iterdir()}
    assert len(files) > 3
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    done = hpcsamp(2, *arguments[:5], "--out", tmp_path / "bad")
    assert done.code == 2
    assert len(done.errors) == 1
    assert "'when' has times" in done.errors[0]


def test_numbers_beside_ids_and_images_are_inputs_by_name(tmp_path):
    from hpcsamp.data import Loader
    from hpcsamp.grid import init

    data = frame()
    data["trust"] = RNG.uniform(0.5, 2, COUNT).round(3)
    path, read = written(tmp_path, data, "parquet")
    how = Preparation(ids=["colour", "kind"], drop=["when"], weight="trust")
    source = read(path, ["load"], preparation=how, fractions={})
    manifest = build(source, tmp_path / "set")
    assert manifest.kinds == {"numbers": "numbers", "ids": "ids"}
    assert manifest.arrays["numbers"].names == ["grade", "speed", "patient"]
    assert manifest.meaning["ids"]["ids of colour"] == "blue, green, red"
    with Loader(
        tmp_path / "set", init("world"), batch=COUNT, shuffle=False, normalize=False
    ) as loader:
        batch = next(iter(loader))
    assert np.allclose(batch.x["numbers"][:, 1], data["speed"], rtol=1e-6)
    assert np.array_equal(batch.x["ids"][:, 0], pd.Categorical(data["colour"]).codes)


def test_targets_may_stay_missing(tmp_path):
    data = frame()[["speed", "load", "kind"]]
    data.loc[[5, 9], "load"] = np.nan
    data.loc[[2], "speed"] = np.nan
    data.loc[[3, 4], "kind"] = None
    for kind in ("csv", "parquet"):
        path, read = written(tmp_path, data, kind)
        keep = Preparation(missing="keep", drop=["kind"])
        source = read(path, ["load"], preparation=keep, fractions={})
        manifest = build(source, tmp_path / kind)
        assert manifest.missing == "nan"
        x, y = Dataset.open(tmp_path / kind).read(range(COUNT))
        assert np.array_equal(y, data["load"], equal_nan=True)
        assert np.allclose(x[2], data["speed"].mean())
        keep = Preparation(missing="keep", drop=["load"])
        source = read(path, ["kind"], preparation=keep, fractions={}, task="classification")
        manifest = build(source, tmp_path / f"{kind}-words")
        assert (manifest.missing, manifest.class_names) == (-1, ["cat", "dog"])
        y = Dataset.open(tmp_path / f"{kind}-words").read(range(6))[1]
        assert y[3:5].tolist() == [-1, -1]


def test_a_later_table_is_prepared_like_the_first(tmp_path):
    data = frame()
    path, read = written(tmp_path, data, "csv")
    how = Preparation(onehot=["colour"], date=["when=day"], drop=["grade", "patient"],
                      unit=["speed=m/s"])  # fmt: skip
    first = build(read(path, ["kind"], preparation=how, task="classification"), tmp_path / "first")
    later = data[:12].copy()
    later["colour"], later["kind"], later["when"] = "red", "dog", data["when"][:12]
    (tmp_path / "later").mkdir()
    path, read = written(tmp_path / "later", later[later.columns[::-1]], "parquet")
    like = Preparation(like=tmp_path / "first")
    second = build(read(path, preparation=like, fractions={}), tmp_path / "second")
    assert second.arrays["x"].names == first.arrays["x"].names
    assert second.arrays["x"].units == first.arrays["x"].units
    assert (second.classes, second.class_names) == (2, ["cat", "dog"])
    x, y = Dataset.open(tmp_path / "second").read(range(12))
    assert x[:, 2:5].tolist() == [[0, 0, 1]] * 12
    assert y.tolist() == [1] * 12
    for column, value, words in (
        ("colour", "pink", ["'colour'", "'pink'", "blue, green, red"]),
        ("kind", "hen", ["'kind'", "'hen'", "cat, dog"]),
    ):
        other = later.copy()
        other.loc[3, column] = value
        path, read = written(tmp_path / "later", other, "parquet")
        with pytest.raises(DataError) as caught:
            build(read(path, preparation=like, fractions={}), tmp_path / "third")
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(UsageError, match="defines how columns are encoded"):
        read(path, preparation=Preparation(like=tmp_path / "first", drop=["kind"]))


def test_a_killed_ingest_of_a_table_goes_on(tmp_path, monkeypatch):
    from hpcsamp.ingest.build import _Writer

    data = pd.DataFrame({f"c{i}": RNG.normal(size=30_000) for i in range(20)})
    path, read = written(tmp_path, data, "parquet")

    class Killed(BaseException):
        """Like a signal: no handler of errors sees it."""

    written_shards = []
    act = _Writer.write

    def dies(self, shard):
        if len(written_shards) == 2:
            raise Killed
        act(self, shard)
        written_shards.append(shard["number"])

    with monkeypatch.context() as m:
        m.setattr(_Writer, "write", dies)
        with pytest.raises(Killed):
            build(read(path, ["c1"]), tmp_path / "set", shard_bytes=10**6)
    blocks = _Writer._blocks
    monkeypatch.setattr(
        _Writer, "_blocks", lambda *a: (written_shards.append(a[1]["number"]), blocks(*a))[1]
    )
    manifest = build(read(path, ["c1"]), tmp_path / "set", shard_bytes=10**6)
    assert written_shards == list(range(len(manifest.shards)))
    build(read(path, ["c1"]), tmp_path / "whole", shard_bytes=10**6)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "set" / file.name).read_bytes()


def tokenizer(folder):
    """A small tokenizer as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "the", "cat", "dog", "sleeps", "runs"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    saved = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    saved.save_pretrained(folder)
    return saved


def test_texts_are_tokens_and_a_mask(tmp_path):
    made = tokenizer(tmp_path / "words")
    texts = ["the cat sleeps", "dog", "the dog runs the cat", "a cat"] * 5
    data = pd.DataFrame({"text": texts, "kind": ["cat", "dog"] * 10})
    for kind in ("csv", "parquet"):
        path, read = written(tmp_path, data, kind)
        how = Preparation(text="text", tokenizer=tmp_path / "words")
        source = read(path, ["kind"], preparation=how, task="classification", fractions={})
        manifest = build(source, tmp_path / kind)
        assert manifest.kinds == {"input_ids": "ids", "attention_mask": "ids"}
        items = source.read("train", 0, 20)
        truth = made(texts, padding=True, return_tensors="np")
        assert np.array_equal(items["input_ids"], truth["input_ids"])
        assert np.array_equal(items["attention_mask"], truth["attention_mask"])
        short = Preparation(text="text", tokenizer=tmp_path / "words", tokens=2)
        cut = read(path, ["kind"], preparation=short, task="classification", fractions={})
        assert np.array_equal(cut.read("train", 0, 1)["input_ids"], truth["input_ids"][:1, :2])
        assert "10 texts were cut" in cut.report[-1]
    with pytest.raises(UsageError, match="its tokenizer, must be given together"):
        table(tmp_path / "t.csv", ["kind"], preparation=Preparation(text="text"))
    lost = Preparation(text="text", tokenizer=tmp_path)
    with pytest.raises(UsageError, match=r"--tokenizer .* cannot be read"):
        table(tmp_path / "t.csv", ["kind"], preparation=lost)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_kind_of_task_is_read_from_a_table(tmp_path, kind):
    data = frame()[["speed", "grade"]]
    data["hot"], data["wet"] = RNG.integers(0, 2, (2, COUNT))
    data["mood"] = RNG.choice(["bad", "good", "fair"], COUNT)
    path, read = written(tmp_path, data, kind)
    how = {"features": ["speed"], "fractions": {}}
    tags = build(read(path, ["hot", "wet"], task="multilabel", **how), tmp_path / "tags")
    assert (tags.task, tags.arrays["y"].names) == ("multilabel", ["hot", "wet"])
    y = Dataset.open(tmp_path / "tags").read(range(COUNT))[1]
    assert np.array_equal(y, data[["hot", "wet"]])
    counts = build(read(path, ["grade"], task="counts", **how), tmp_path / "counts")
    assert (counts.task, counts.classes) == ("counts", None)
    with pytest.raises(DataError, match="the order of the words"):
        read(path, ["mood"], task="ordinal", **how)
    order = Preparation(class_name=["bad", "fair", "good"])
    source = read(path, ["mood"], task="ordinal", preparation=order, **how)
    moods = build(source, tmp_path / "moods")
    assert (moods.task, moods.class_names) == ("ordinal", ["bad", "fair", "good"])
    y = Dataset.open(tmp_path / "moods").read(range(COUNT))[1]
    assert [order.class_name[i] for i in y] == data["mood"].tolist()
    with pytest.raises(DataError, match="'grade' has values other than 0 and 1"):
        read(path, ["hot", "grade"], task="multilabel", **how)


def test_columns_keep_apart_what_numbers_cannot_tell_apart(tmp_path):
    """Ids of many digits and codes with leading zeros are categories of their own."""
    for words in (
        ["123456789012345678901", "123456789012345678902", "7"],
        ["01", "1", "2"],
        ["9007199254740993.0", "9007199254740993", "9007199254740992"],
    ):
        data = pd.DataFrame({"c": words * 4, "y": np.linspace(0.5, 3, 12)})
        path, read = written(tmp_path, data, "csv")
        made = read(path, ["y"], fractions={}, preparation=Preparation(onehot=["c"]))
        assert made.arrays["x"].names == [f"c={w}" for w in sorted(words)]
        assert whole(made)[0].sum(0).tolist() == [4, 4, 4]
        labels = read(path, ["c"], fractions={}, task="classification")
        assert labels.class_names == sorted(words)
        assert whole(labels)[1].tolist() == [sorted(words).index(w) for w in words] * 4
    path, read = written(tmp_path, data.assign(c=["+1", "1.0", "2"] * 4), "csv")
    assert (
        whole(read(path, ["c"], fractions={}, task="classification"))[1].tolist() == [1, 1, 2] * 4
    )


def test_labels_that_are_missing_are_no_class_and_stay_labels(tmp_path):
    """Words for a missing value beside numbers in text, nulls beside whole numbers in parquet."""
    x = np.linspace(0.5, 3, 12)
    data = pd.DataFrame({"x": x, "y": ["0", "1", "NA"] * 4})
    data.to_csv(tmp_path / "t.csv", index=False)
    null = pa.array([0, 1, None] * 4)
    pq.write_table(pa.table({"x": x, "y": null}), tmp_path / "t.parquet", row_group_size=5)
    flags = null.cast(pa.bool_())
    pq.write_table(pa.table({"x": x, "y": flags}), tmp_path / "flags.parquet")
    for path, read, task in (
        (tmp_path / "t.csv", table, "classification"),
        ([tmp_path / "t.parquet"], parquet, None),
        ([tmp_path / "flags.parquet"], parquet, None),
    ):
        with pytest.raises(DataError, match=r"column 'y': a value is missing \(in 4 of 12 rows\)"):
            read(path, ["y"], fractions={}, task=task)
        for missing, expected in (("drop", [0, 1] * 4), ("keep", [0, 1, -1] * 4)):
            made = read(
                path, ["y"], fractions={}, task=task, preparation=Preparation(missing=missing)
            )
            assert (made.task, made.classes) == ("classification", 2)
            assert whole(made)[1].tolist() == expected
    data["y"] = ["None", "mild", "NA"] * 4  # beside words they are words
    data.to_csv(tmp_path / "t.csv", index=False)
    found = table(tmp_path / "t.csv", ["y"], fractions={}, task="classification")
    assert found.class_names == ["NA", "None", "mild"]


def test_what_numbers_the_rows_is_no_feature_and_times_are_no_target(tmp_path):
    data = pd.DataFrame({"x": RNG.normal(size=12), "y": RNG.normal(size=12)})
    data["when"] = pd.date_range("2020-01-01", periods=12)
    for index in (RNG.permutation(12), pd.Index(RNG.normal(size=12), name="key")):
        path, read = written(tmp_path, data.set_index(index), "parquet")
        made = read(path, ["y"], fractions={}, preparation=Preparation(drop=["when"]))
        name = "key" if getattr(index, "name", None) else "__index_level_0__"
        assert made.arrays["x"].names == ["x"]
        assert f"column {name!r} is the index of a pandas table" in made.report[0]
        assert read(path, ["y"], features=[name], fractions={}).arrays["x"].names == [name]
        rule = Rule(chronological=name)
        assert read(path, ["y"], features=["x"], rule=rule).arrays["x"].names == ["x"]
    with pytest.raises(UsageError, match=r"column 'when' has times; targets are numbers"):
        read(path, ["when"], features=["x"])


def test_a_file_is_taken_once(tmp_path):
    """Its items would be in train and in test; also where it is named in another way."""
    data = pd.DataFrame({"x": RNG.normal(size=12), "y": RNG.normal(size=12)})
    (csv, read_csv), (files, read) = (written(tmp_path, data, k) for k in ("csv", "parquet"))
    (tmp_path / "link.csv").symlink_to(csv)
    with pytest.raises(UsageError, match=r"t.parquet is given twice, so its items would be"):
        read([*files, tmp_path], ["y"])
    with pytest.raises(UsageError, match=r"link.csv is given twice"):
        read_csv(csv, ["y"], test_file=tmp_path / "link.csv")
    held = data.to_xarray().rename(index="time")
    held = held.assign_coords(time=pd.date_range("2020-01-01", periods=12)).to_dataframe()
    for name in ("a.nc", "b.nc"):
        held.to_xarray().to_netcdf(tmp_path / name, engine="h5netcdf")
    with pytest.raises(UsageError, match=r"a.nc is given twice"):
        netcdf([tmp_path / "a.nc", tmp_path / "a.nc"], ["x"], ["y"], sample="time")
    twice = netcdf([tmp_path / "a.nc", tmp_path / "b.nc"], ["x"], ["y"], sample="time")
    assert "12 of 24 items have the same time as another item" in twice.report
