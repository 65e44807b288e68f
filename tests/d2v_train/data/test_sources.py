"""Where samples come from: names on the Hub, what can be streamed, and requests that cannot be met."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2v_train.data.records import open_dataset


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
