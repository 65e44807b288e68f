"""Tables of columns as sources of every modality: inputs, labels, splits and damage, mapped and streamed."""

import json

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_data import png, usable, wav, write_tar

from d2v_train.data.columns import Column
from d2v_train.data.dataset_tables import input_columns, open_columns, open_datasets, table_of
from d2v_train.data.records import open_dataset
from d2v_train.data.tables import ColumnNotFoundError, SourceSettings, SplitNotFoundError, UnclearColumnError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_table_of_columns_becomes_values_labels_and_groups():
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"], "speaker": [1, None]})
    splits = datasets.DatasetDict({"train": train})
    table = table_of("text", open_datasets(splits), "train", SourceSettings(), "the data")
    assert [table.values[row] for row in range(2)] == ["a", "b"]
    assert (table.labels.tolist(), table.label_names, table.groups) == ([0, 1], ["x", "y"], ["1", ""])


def write_rows(path, rows):
    """Write rows of dicts in the format that the suffix tells."""
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    suffix = path.suffix
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        lines = [columns, *([("" if cell is None else str(cell)) for cell in row.values()] for row in rows)]
        path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


EVERY = [".parquet", ".arrow", ".json", ".jsonl", ".csv", ".tsv"]


@pytest.mark.parametrize("stream_block", [None, 2])
@pytest.mark.parametrize("suffix", EVERY)
@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_every_format_serves_every_modality(tmp_path, suffix, modality, stream_block):
    folder = tmp_path / "set [2024] 100%?*ä"
    (folder / "files").mkdir(parents=True)
    name, content = {"vision": ("image", png), "audio": ("audio", wav), "text": ("text", None)}[modality]
    rows = []
    for number, label in enumerate(["cat", " dog ", None]):
        cell = f"text {number}"
        if content is not None:
            cell = f"files/{number}.bin"
            (folder / cell).write_bytes(content(number))
        rows.append({name: cell, "label": label, "speaker": f"s{number}"})
    path = write_rows(folder / f"train{suffix}", rows)
    for source in (path, folder, f"{folder}/"):
        table = open_columns(modality, source, "train", SourceSettings(), stream_block is not None)
        assert len(table.values) == 3 and table.groups == ["s0", "s1", "s2"]
        value = table.values[1]
        assert value == ("text 1" if content is None else str(folder / "files" / "1.bin"))
    if not (modality == "text" and suffix == ".jsonl"):
        data = open_dataset(modality, str(path), stream_block=stream_block)
        assert usable(data) == (3, [])
    labels = open_columns(modality, path, "train", SourceSettings())
    assert labels.labels.tolist() == [0, 1, -1] and labels.label_names == ["cat", "dog"]
    unread = open_columns(modality, path, "train", SourceSettings(read_labels=False))
    assert unread.labels is None and unread.label_names is None


@pytest.mark.parametrize("stream_block", [None, 2])
@pytest.mark.parametrize("cell", [png(), {"bytes": png(), "path": None}, {"bytes": None, "path": "x.png"}])
def test_pictures_are_bytes_structs_or_paths(tmp_path, cell, stream_block):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "x.png").write_bytes(png())
    pq.write_table(pa.table({"picture": [cell] * 3}), tmp_path / "tables" / "a.parquet")
    data = open_dataset("vision", str(tmp_path / "tables" / "a.parquet"), stream_block=stream_block)
    assert usable(data) == (3, []) and data[0]["image"].size == (8, 8)


@pytest.mark.parametrize("stream_block", [None, 2])
def test_recordings_are_arrays_with_their_rate(tmp_path, stream_block):
    samples = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
    pq.write_table(pa.table({"audio": [samples.tolist()] * 2, "sample_rate": [16000, 8000]}), tmp_path / "a.parquet")
    data = open_dataset("audio", str(tmp_path / "a.parquet"), stream_block=stream_block)
    np.testing.assert_array_equal(data[0]["audio"], samples)
    assert len(data[1]["audio"]) == 3200
    pq.write_table(pa.table({"audio": [{"array": samples, "sampling_rate": 8000}]}), tmp_path / "b.parquet")
    assert len(open_dataset("audio", str(tmp_path / "b.parquet"), stream_block=stream_block)[0]["audio"]) == 3200
    pq.write_table(pa.table({"speech": [samples]}), tmp_path / "c.parquet")
    with pytest.raises(ColumnNotFoundError, match="'speech'.*sampling_rate"):
        open_dataset("audio", str(tmp_path / "c.parquet"), stream_block=stream_block)
    data = open_dataset("audio", str(tmp_path / "c.parquet"), stream_block=stream_block, sampling_rate=32000)
    assert len(data[0]["audio"]) == 800


def test_pixels_reach_the_decoder_as_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Array3D((4, 5, 3), "uint8")})
    datasets.Dataset.from_dict({"image": [pixels]}, features=features).to_parquet(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([pixels.tolist()], pa.list_(pa.list_(pa.list_(pa.uint8()))))}),
                   tmp_path / "b.parquet")  # fmt: skip
    for name in ("a", "b"):
        data = open_dataset("vision", str(tmp_path / f"{name}.parquet"))
        np.testing.assert_array_equal(np.asarray(data[0]["image"]), pixels)


@pytest.mark.parametrize("stream_block", [None, 2])
def test_folders_of_save_to_disk(tmp_path, stream_block):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["n", "p"])})
    cells = {"image": [{"bytes": png(number), "path": None} for number in range(4)], "label": [0, 1, 1, 0]}
    whole = datasets.Dataset.from_dict(cells, features=features)
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=whole, test=whole.select([2])).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        data = open_dataset("vision", str(tmp_path / name), stream_block=stream_block)
        assert usable(data) == (4, [])
        if stream_block is None:
            assert data.labels.tolist() == [0, 1, 1, 0] and data.label_names == ["n", "p"]
    assert len(open_dataset("vision", str(tmp_path / "two"), "test", stream_block=stream_block)) == 1
    with pytest.raises(SplitNotFoundError, match="train"):
        open_dataset("vision", str(tmp_path / "one"), "test", stream_block=stream_block)


@pytest.mark.parametrize("stream_block", [None, 2])
def test_tars_of_pictures_recordings_and_texts(tmp_path, stream_block):
    write_tar(tmp_path / "v.tar", [("0.jpg", png(0)), ("0.cls", b"1"), ("1.png", png(1)), ("1.cls", b"0")])
    write_tar(tmp_path / "a.tar", [("0.flac", wav(0)), ("0.json", b'{"label": "yes", "text": "hello"}')])
    write_tar(tmp_path / "t.tar", [("0.txt", b"a text"), ("0.cls", b"pos"), ("1.txt", b"b"), ("1.cls", b"neg")])
    for modality, name, count in (("vision", "v", 2), ("audio", "a", 1), ("text", "t", 2)):
        data = open_dataset(modality, str(tmp_path / f"{name}.tar"), stream_block=stream_block)
        assert usable(data) == (count, [])
    if stream_block is None:
        assert data.labels.tolist() == [1, 0] and data.label_names == ["neg", "pos"]
        data = open_dataset("audio", str(tmp_path / "a.tar"), text_column="text")
        assert data.transcripts == ["hello"] and data.label_names == ["yes"]
    (tmp_path / "folder").mkdir()
    for number in range(2):
        write_tar(tmp_path / "folder" / f"train-{number}.tar", [("0.jpg", png(0)), ("1.jpg", png(1))])
    assert usable(open_dataset("vision", str(tmp_path / "folder"), stream_block=stream_block)) == (4, [])


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.parquet", "train.tar"])
def test_urls_are_sources(tmp_path, name):
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/{name}.d/0.png", png())
    if name.endswith(".tar"):
        write_tar(tmp_path / name, [("0.png", png())])
    else:
        write_rows(tmp_path / name, [{"image": "0.png", "label": 3}])
    memory.pipe_file(f"/{name}.d/{name}", (tmp_path / name).read_bytes())
    for source in (f"memory://{name}.d/{name}", f"memory://{name}.d"):
        for stream_block in (None, 2):
            assert usable(open_dataset("vision", source, stream_block=stream_block)) == (1, [])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_dataset("vision", "memory://nowhere")
    memory.pipe_file("/pictures/0.png", png())
    assert usable(open_dataset("vision", "memory://pictures")) == (1, [])
    with pytest.raises(ValueError, match="no tables at memory://pictures"):
        open_dataset("text", "memory://pictures")


@pytest.mark.parametrize("stream_block", [None, 3])
@pytest.mark.parametrize("modality", ["vision", "text"])
@pytest.mark.parametrize("content", [b"", b"PAR1broken", b"rubbish", "torn", "empty table"])
def test_a_broken_shard_is_counted_and_named_in_both_modes(tmp_path, modality, content, stream_block):
    name, cells = ("image", [png(number) for number in range(6)]) if modality == "vision" else ("text", list("abcdef"))
    for number in range(3):
        table = pa.table({name: cells, "label": [1] * 6})
        if (number, content) == (1, "empty table"):
            table = table.slice(0, 0)
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2, compression="gzip")
    path = tmp_path / "1.parquet"
    expected = {"torn": (18, 2), "empty table": (12, 0)}.get(content, (13, 1))
    if content == "torn":
        chunk = pq.read_metadata(path).row_group(1).column(0)
        start = min(filter(None, (chunk.data_page_offset, chunk.dictionary_page_offset)))
        damaged = bytearray(path.read_bytes())
        damaged[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        path.write_bytes(damaged)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    data = open_dataset(modality, str(tmp_path), stream_block=stream_block)
    good, messages = usable(data)
    assert (len(data), len(data) - good) == expected
    assert all("unreadable" in message and "1.parquet" in message for message in messages)
    assert data.bad.total == expected[1]
    substitute = data[6]
    assert substitute["id"] == 6, "another sample stands in for a bad one"


@pytest.mark.parametrize("stream_block", [None, 2])
def test_a_broken_csv_or_json_among_others_is_one_bad_sample(tmp_path, stream_block):
    for suffix in ("csv", "json"):
        folder = tmp_path / suffix
        folder.mkdir()
        for number in range(2):
            write_rows(folder / f"{number}.{suffix}", [{"text": "a", "label": 1}, {"text": "b", "label": 0}])
        (folder / f"1.{suffix}").write_bytes(b"")
        good, messages = usable(open_dataset("text", str(folder), stream_block=stream_block))
        assert good == 2 and len(messages) == 1 and f"1.{suffix}" in messages[0]
        (folder / f"0.{suffix}").write_bytes(b"")
        with pytest.raises(ValueError, match=f"0.{suffix}"):
            open_dataset("text", str(folder), stream_block=stream_block)


def test_words_are_no_missing_values_and_cells_are_never_other_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nNA,0\nnull,1\nNone,0\nnan,1\nN/A,0\n,1\n")
    data = open_dataset("text", str(tmp_path / "a.csv"))
    assert [data.load(row)["text"] for row in range(5)] == ["NA", "null", "None", "nan", "N/A"]
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1] and "empty" in usable(data)[1][0]


def test_classes_agree_between_splits_of_any_format(tmp_path):
    write_rows(tmp_path / "train.csv", [{"text": "a", "label": "b"}, {"text": "b", "label": "c"}])
    write_rows(tmp_path / "test.parquet", [{"text": "a", "label": "a"}, {"text": "b", "label": None}])
    train, test = (open_dataset("text", str(tmp_path), split) for split in ("train", "test"))
    assert train.label_names == test.label_names == ["a", "b", "c"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 2], [0, -1])
    write_rows(tmp_path / "test.parquet", [{"text": "a", "label": -1}])
    assert open_dataset("text", str(tmp_path), "test").labels.tolist() == [-1]
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    assert open_dataset("text", str(tmp_path)).label_names == ["b", "c"], "another split is broken"


def test_integers_of_csv_and_parquet_are_the_same_classes(tmp_path):
    write_rows(tmp_path / "train.csv", [{"text": "a", "label": 2}, {"text": "b", "label": None}])
    write_rows(tmp_path / "test.parquet", [{"text": "a", "label": 2.0}, {"text": "b", "label": None}])
    for split in ("train", "test"):
        data = open_dataset("text", str(tmp_path), split)
        assert data.labels.tolist() == [2, -1] and data.label_names is None


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".arrow"])
def test_several_labels_of_a_sample_are_a_row(tmp_path, suffix):
    rows = [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": None}, {"text": "c", "labels": []}]
    data = open_dataset("text", str(write_rows(tmp_path / f"a{suffix}", rows)))
    np.testing.assert_array_equal(data.labels, np.float32([[1, 1], [np.nan, np.nan], [0, 0]]))
    assert data.label_names == ["x", "y"] and data[0]["label"].tolist() == [1, 1]


@pytest.mark.parametrize("labels", [[1, "x"], [{"a": 1}, None], [["a"], [1]]])
def test_labels_that_are_not_read_stop_nothing(tmp_path, labels):
    rows = [{"text": "a", "label": label} for label in labels]
    path = str(write_rows(tmp_path / "a.json", rows))
    assert len(open_dataset("text", path, read_labels=False)) == 2
    with pytest.raises(ValueError, match="column 'label'.*row 0"):
        open_dataset("text", path)


def test_a_column_that_a_file_lacks_is_named_with_the_file(tmp_path):
    write_rows(tmp_path / "0.csv", [{"text": "a", "label": "x"}])
    write_rows(tmp_path / "1.csv", [{"sentence": "a", "label": "x"}])
    with pytest.raises(ColumnNotFoundError, match=r"'text' in .*1\.csv. It has: sentence, label"):
        open_dataset("text", str(tmp_path))


@pytest.mark.parametrize(
    "modality, schema, expected",
    [
        ("vision", {"jpg": "binary", "png": "binary", "cls": "number"}, ["jpg", "png"]),
        ("vision", {"image": "struct", "jpg": "binary"}, ["image"]),
        ("vision", {"file_name": "string", "label": "string"}, ["file_name"]),
        ("vision", {"img_path": "string", "path": "string"}, ["img_path"]),
        ("audio", {"audio_filepath": "string", "text": "string", "duration": "number"}, ["audio_filepath"]),
        ("audio", {"seg.flac": "binary", "txt": "string"}, ["seg.flac"]),
        ("text", {"idx": "number", "left": "string"}, ["left"]),
        ("text", {"txt": "string", "cls": "string"}, ["txt"]),
        ("text", {"premise": "string", "hypothesis": "string", "x": "string"}, ["premise", "hypothesis"]),
    ],
)
def test_the_input_is_found_by_type_and_name(modality, schema, expected):
    found = input_columns(modality, {name: Column(kind) for name, kind in schema.items()}, None, "it")
    assert found == expected


def test_an_input_that_cannot_be_told_is_asked_for():
    with pytest.raises(UnclearColumnError, match="it has: a, b"):
        input_columns("vision", {"a": Column("string"), "b": Column("number")}, None, "it")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".tsv", ".json", ".tar"])
def test_files_of_which_nothing_can_be_read_are_in_the_account(tmp_path, suffix):
    for number in range(3):
        path = tmp_path / f"{number}{suffix}"
        if suffix == ".tar":
            write_tar(path, [("0.png", png())])
        else:
            (tmp_path / "x.png").write_bytes(png())
            write_rows(path, [{"file_name": "x.png"}])
    (tmp_path / "x.png").unlink(missing_ok=True)
    (tmp_path / f"1{suffix}").write_bytes(b"")
    for streaming in (False, True):
        table = open_columns("vision", tmp_path, "train", SourceSettings(), streaming)
        inventory = table.inventory
        assert len(table.values) == inventory.samples["train"] == 3 and len(inventory.used) == 2
        assert inventory.left_out["it cannot be read, and counts as one bad sample"] == [str(tmp_path / f"1{suffix}")]


def test_the_account_of_a_source_names_what_is_not_read(tmp_path):
    for name in ("train.csv", "test.csv", "sample_submission.csv", "notes.md"):
        (tmp_path / name).write_text("text,label\na,1\n")
    inventory = open_dataset("text", str(tmp_path)).inventory
    assert inventory.samples == {"train": 1, "test": None} and len(inventory.used) == 2
    assert {name for names in inventory.left_out.values() for name in names} == {"sample_submission.csv", "notes.md"}
