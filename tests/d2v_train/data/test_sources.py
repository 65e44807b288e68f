"""Where samples come from: names on the Hub, what can be streamed, and requests that cannot be met."""

import io
import os
import shutil

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import classes, opened, write_parquet, write_picture, write_recording, write_text
from torch.utils.data import DataLoader

from d2v_train.data.records import open_dataset
from d2v_train.data.sources import take_inventory
from d2v_train.data.tables import SourceSettings


def test_data_of_the_hub_that_is_not_parquet_is_refused(monkeypatch):
    class Builder:
        class config:
            data_files = {"train": ["hf://datasets/a/b/train.csv"]}

    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_: Builder)
    with pytest.raises(ValueError, match="a/b.*parquet"):
        open_dataset("text", "a/b", stream_block=10)
    Builder.config.data_files = None
    with pytest.raises(ValueError, match="a/b.*Hub"):
        open_dataset("text", "a/b", stream_block=10)


@pytest.mark.parametrize("block, function", [(None, "load_dataset"), (10, "load_dataset_builder")])
def test_a_name_that_is_neither_here_nor_on_the_hub_is_said_to_be_neither(monkeypatch, block, function):
    def unreachable(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(f"datasets.{function}", unreachable)
    with pytest.raises(ConnectionError, match="'data/clips'"):
        open_dataset("text", "data/clips", stream_block=block)


def test_what_cannot_be_streamed_is_a_sentence(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match="train-1.parquet"):
        open_dataset("text", str(tmp_path), stream_block=10)
    for path in tmp_path.iterdir():
        path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="train-0.parquet"):
        open_dataset("text", str(tmp_path), stream_block=10)


def test_hub_names_go_to_load_dataset(monkeypatch):
    from datasets import Dataset, DatasetDict

    asked = []

    def load(name, config=None):
        asked.append((name, config))
        return DatasetDict(validation=Dataset.from_dict({"text": ["x"], "score": [0.5]}))

    monkeypatch.setattr("datasets.load_dataset", load)
    data = open_dataset("text", "nyu-mll/glue:cola", "test", label_column="score")
    assert asked == [("nyu-mll/glue", "cola")] and data[0]["label"] == 0.5
    open_dataset("text", "wikitext", "validation")
    assert asked[1] == ("wikitext", None)


def test_wrong_requests_are_explained(tmp_path):
    with pytest.raises(ValueError, match="'video'"):
        open_dataset("video")
    with pytest.raises(FileNotFoundError, match="exist"):
        open_dataset("audio", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="audio"):
        open_dataset("audio", str(tmp_path))
    with pytest.raises(ValueError, match="group"):
        open_dataset("vision", None, exclude_groups=["x"])
    with pytest.raises(ValueError, match="on_bad"):
        open_dataset("vision", on_bad="ignore")


AWKWARD = ["[2024]", "set?", "*", "a b", "50% off", "grün", "user:data", "~", "a/b/c/d", "test", "x" * 200]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_are_literal(tmp_path, monkeypatch, name, slash):
    write_picture(tmp_path / name / "cat" / "0.png")
    write_picture(tmp_path / name / "dog" / "[1]*.png")
    write_text(tmp_path / "texts" / name / "[a] ?.txt", "words")
    write_text(tmp_path / "2" / "0.txt", "what a pattern of brackets would match")
    monkeypatch.chdir(tmp_path)
    assert (
        classes(opened("vision", f"{tmp_path}/{name}{slash}"))
        == classes(opened("vision", name))
        == {"cat": 1, "dog": 1}
    )
    assert opened("text", f"{tmp_path}/texts/{name}{slash}")[0]["text"] == "words"
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "texts" / name / "[x].parquet")
    (tmp_path / "texts" / name / "[a] ?.txt").unlink()
    for block in (None, 10):
        assert len(opened("text", f"{tmp_path}/texts/{name}{slash}", stream_block=block)) == 2


def test_paths_that_are_not_text_and_those_of_the_home_folder(tmp_path, monkeypatch):
    name = os.fsdecode(b"caf\xe9")
    write_picture(tmp_path / name / name / f"{name}.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    data = opened("vision", f"~/{name}")
    assert data[0]["image"].size == (6, 4) and data.fingerprint()["records"] == 1
    assert len(opened("vision", f"file://{tmp_path}/{name}")) == 1
    with pytest.raises(FileNotFoundError):
        opened("vision", "~nobody/nothing")
    with pytest.raises(FileNotFoundError):
        opened("vision", "/" + "x" * 5000)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_zip_file_is_read_in_place(tmp_path, wrapped):
    root = tmp_path / "in" / "all" if wrapped else tmp_path / "in"
    for name in ("train/cat/0.png", "train/dog/1.png", "test/dog/2.png"):
        write_picture(root / name)
    write_text(root / "README.md")
    archive = shutil.make_archive(str(tmp_path / "[pictures]"), "zip", tmp_path / "in")
    data = opened("vision", archive)
    assert classes(data) == {"cat": 1, "dog": 1} and data[0]["image"].size == (6, 4)
    assert data.inventory.samples == {"test": 1, "train": 2} and data.inventory.files == 4
    assert len(opened("vision", archive, "test")) == 1
    loader = DataLoader(data, batch_size=1, num_workers=2, collate_fn=lambda records: records[0]["image"].size)
    assert list(loader) == [(6, 4)] * 2
    with pytest.raises(ValueError, match="unsupported"):
        opened("text", archive)


def test_urls_of_folders_zip_and_tables(tmp_path):
    system = fsspec.filesystem("memory")
    for number, name in enumerate(("train/cat/0.wav", "train/dog/1.wav", "test/dog/2.wav")):
        system.pipe_file(
            f"/speech/{name}", write_recording(tmp_path / "a.wav", seconds=0.1 * (number + 1)).read_bytes()
        )
    system.pipe_file("/speech/notes.m4a", b"x")
    data = opened("audio", "memory://speech")
    assert classes(data) == {"cat": 1, "dog": 1} and [data[i]["audio"].size for i in range(2)] == [1600, 3200]
    assert data.inventory.samples == {"test": 1, "train": 2} and data.inventory.files == 4
    assert data.table.values.is_remote and len(opened("audio", "memory://speech/test", "train")) == 1
    system.pipe_file("/listed/metadata.csv", b"file_name,text\nclips/0.wav,GO\nclips/9.wav,GONE\n")
    system.pipe_file("/listed/clips/0.wav", (tmp_path / "a.wav").read_bytes())
    data = opened("audio", "memory://listed", text_column="text")
    assert data.transcripts == ["GO", "GONE"] and len(data.without_bad()) == 1
    assert data.bad.names("missing") == ["clips/9.wav"]
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), table)
    system.pipe_file("/tables/train.parquet", table.getvalue())
    system.pipe_file("/tables/README.md", b"x")
    data = opened("text", "memory://tables")
    assert len(data) == 2 and data.inventory.used == ["train.parquet"] and data.inventory.files == 2
    with pytest.raises(FileNotFoundError, match="memory://nothing"):
        opened("audio", "memory://nothing")
    with pytest.raises(ValueError, match="this machine"):
        opened("text", "memory://speech")


def test_the_account_of_built_in_data_counts_every_split():
    samples = take_inventory("vision", None, SourceSettings()).samples
    assert samples == {part: len(opened("vision", "builtin", part)) for part in ("train", "test")}


def test_built_in_data_has_names():
    digits = opened("text", "builtin:digits", "test")
    assert digits.inventory.source == "builtin:digits" and len(digits) == 300
    with pytest.raises(ValueError, match="no built-in data 'builtin:digits' of vision; there is builtin"):
        opened("vision", "builtin:digits")


def test_the_account_of_a_source_without_training_data(tmp_path):
    write_picture(tmp_path / "test" / "0.png")
    assert take_inventory("vision", str(tmp_path), SourceSettings()).samples == {"test": 1}
    with pytest.raises(ValueError, match="no audio|modality audio"):
        take_inventory("audio", str(tmp_path), SourceSettings())


@pytest.mark.parametrize("split", ["train.clean.100+train.clean.360", "train+train-other-500", "train + train"])
@pytest.mark.parametrize("kind", ["pictures", "parquet", "texts", "builtin"])
def test_names_that_mean_the_same_split_open_it_once(tmp_path, caplog, kind, split):
    source, modality = str(tmp_path), "text" if kind == "texts" else "vision"
    if kind == "pictures":
        write_picture(tmp_path / "0.png")
    elif kind == "texts":
        write_text(tmp_path / "a.txt", "text")
    elif kind == "parquet":
        content = write_picture(tmp_path / "0.png").read_bytes()
        write_parquet(tmp_path / "a.parquet", image=[content])
    else:
        source = "builtin"
    once = len(open_dataset(modality, source))
    assert len(open_dataset(modality, source, split)) == once
    assert caplog.text.count("using its split 'train'") == ("train+" not in split and "train +" not in split)


@pytest.mark.parametrize(
    "name, modality, advice",
    [("a.m4a", "audio", "ffmpeg"), ("a.HEIC", "vision", "magick"), ("a.npy", "vision", "parquet")],
)
def test_a_source_of_unreadable_files_says_how_to_convert_them(tmp_path, name, modality, advice):
    write_text(tmp_path / "in" / name, "x")
    for source in (tmp_path, tmp_path / "in" / name, shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "in")):
        with pytest.raises(ValueError, match=advice):
            opened(modality, source)


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_a_source_without_samples_accounts_for_all_its_files(tmp_path, modality):
    write_text(tmp_path / "LICENSE")
    write_text(tmp_path / "a.foo")
    (tmp_path / "gone.png").symlink_to("nothing")
    with pytest.raises(ValueError, match=r"(?s)There are no files of modality.*LICENSE.*a\.foo.*broken link: 1"):
        opened(modality, tmp_path)
