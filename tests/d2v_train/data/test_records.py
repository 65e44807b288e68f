"""Sources, splits, columns, groups, and what becomes of bad records."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset, draw_rows, open_dataset
from d2v_train.data.tables import (
    TRANSCRIPT_COLUMNS,
    SourceSettings,
    Table,
)


def wave(seconds=0.1, rate=16_000, frequency=440.0, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone[:, None], (1, channels)).astype(np.float32).squeeze()


def write_wave(path: Path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(**options), options.get("rate", 16_000))


def test_cached_and_uncached_records_are_equal_and_the_cache_is_bounded(monkeypatch):
    table = Table([{"array": wave(frequency=f), "sampling_rate": 8_000} for f in (200, 300, 400)])
    for cache in ("auto", True, False):
        data = RawDataset("audio", table, settings=SourceSettings(cache=cache))
        first, again = data[1]["audio"], data[1]["audio"]
        np.testing.assert_array_equal(first, again)
        assert (first is again) == (cache is not False)
        assert data.bad.counts() == {"resampled": 1}
    monkeypatch.setattr("d2v_train.data.records.AUTO_CACHE_BYTES", first.nbytes)
    data = RawDataset("audio", table)
    data[0], data[1]
    assert list(data._cache) == [0]


def make_parquet(folder: Path, rows: int = 6, split: str = "train"):
    from datasets import Audio, ClassLabel, Dataset, Features, Value

    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for i in range(rows):
        path = folder / "clip.wav"
        write_wave(path, frequency=100.0 * (i + 1), rate=8_000)
        clips.append({"bytes": path.read_bytes(), "path": f"{i}.wav"})
        path.unlink()
    # Cast afterwards: encoding into an Audio column needs torchcodec.
    encoded = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": encoded, "label": ClassLabel(names=["a", "b"]), "speaker": Value("string")})
    columns = {"audio": clips, "label": [i % 2 for i in range(rows)], "speaker": [f"s{i % 3}" for i in range(rows)]}
    data = Dataset.from_dict(columns, features=features).cast_column("audio", Audio(8_000, decode=False))
    data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_parquet_with_groups_and_filters(tmp_path):
    make_parquet(tmp_path)
    make_parquet(tmp_path, rows=3, split="test")
    data = open_dataset("audio", str(tmp_path))
    assert len(data) == 6 and data.label_names == ["a", "b"] and len(data[0]["audio"]) == 1600
    rest = open_dataset("audio", str(tmp_path), "train+test", exclude_groups=["s1"])
    assert sorted(set(rest.groups)) == ["s0", "s2"] and len(rest) == 6
    only = open_dataset("audio", str(tmp_path), "train+test", only_groups=["s1"])
    assert [only[i]["group"] for i in range(len(only))] == ["s1"] * 3
    assert [only[i]["label"] for i in range(3)] == [1, 0, 1]
    with pytest.raises(ValueError, match="'george'.*s0, s1, s2"):
        open_dataset("audio", str(tmp_path), exclude_groups=["george"])
    with pytest.raises(ValueError, match="'sound'"):
        open_dataset("audio", str(tmp_path), column="sound")
    with pytest.raises(ValueError, match="`column`"):
        open_dataset("vision", str(tmp_path))


def test_max_samples_is_a_fixed_random_choice():
    data = [open_dataset("vision", None, "train", max_samples=100) for _ in range(2)]
    assert len(data[0]) == 100 and len(set(data[0].labels.tolist())) == 10
    np.testing.assert_array_equal(data[0].rows, data[1].rows)


def test_random_subsets_are_the_same_in_every_release():
    data = RawDataset("text", Table([str(number) for number in range(80)]), np.arange(0, 80, 2))
    assert data.subset(5).rows.tolist() == [20, 24, 38, 46, 60]
    assert data.subset(5, seed=3).rows.tolist() == [6, 12, 14, 18, 58]
    assert draw_rows(np.arange(0, 80, 2), 5).tolist() == [20, 24, 38, 46, 60]
    assert data.subset(40) is data.subset(None) is data
    generator = np.random.default_rng(0)
    assert draw_rows(data.rows, 5, generator).tolist() != draw_rows(data.rows, 5, generator).tolist()
    for draw_none in (lambda: data.subset(0), lambda: draw_rows(data.rows, 0)):
        with pytest.raises(ValueError, match="max_samples is 0"):
            draw_none()


def test_fingerprint_follows_records_and_names(tmp_path):
    for name in ("a", "b", "c"):
        write_wave(tmp_path / f"{name}.wav")
    before = open_dataset("audio", str(tmp_path)).fingerprint()
    assert before["records"] == 3 and before == open_dataset("audio", str(tmp_path)).fingerprint()
    (tmp_path / "c.wav").rename(tmp_path / "d.wav")
    renamed = open_dataset("audio", str(tmp_path))
    assert renamed.fingerprint()["records"] == 3 and renamed.fingerprint() != before
    assert renamed.select([0, 1]).fingerprint() != renamed.select([1, 0]).fingerprint()


SHARED = Path(os.environ.get("D2V_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("modality", "folder", "split", "count", "classes"),
    [
        ("vision", "cifar10", "test", 2_000, 10),
        ("vision", "photos_hires", "test", 20, 14),
        ("audio", "fsdd", "train", 2_700, 10),
        ("audio", "librispeech_unlabelled", "train", 100, None),
        ("audio", "speech_commands_small", "train", 126, 18),
        ("text", "gutenberg_prose", "validation", 1_410, None),
        ("text", "glue/sst2", "test", 872, 2),
        ("text", "glue:mrpc", "train", 3_668, 2),
    ],
)
def test_real_data(modality, folder, split, count, classes):
    data = open_dataset(modality, str(SHARED / folder), split)
    assert len(data) == count and (data.label_names and len(data.label_names)) == classes
    for index in torch.linspace(0, count - 1, 10).long().tolist():
        record = data[index]
        assert record["id"] == index and (record["label"] is None) == (classes is None)
    assert data.bad.total == 0
    assert ("text_pair" in record) == (folder == "glue:mrpc")


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


def heard(raw):
    return [raw[i]["transcript"] for i in range(len(raw))]


def test_transcripts_of_parquet(tmp_path):
    clip = write_clip(tmp_path / "clip.wav")
    rows = {"audio": [str(clip)] * 3, "sentence": ["ONE", None, "THREE"], "label": [0, 1, 0]}
    Dataset.from_dict(rows).cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "data" / "train.parquet")
    raw = open_dataset("audio", str(tmp_path / "data"), text_column=TRANSCRIPT_COLUMNS)
    assert raw.transcripts == heard(raw) == ["ONE", "", "THREE"]
    assert raw.select([2, 0]).transcripts == ["THREE", "ONE"]
    assert "transcript" not in open_dataset("audio", str(tmp_path / "data"))[0]
    with pytest.raises(ValueError, match="words"):
        open_dataset("audio", str(tmp_path / "data"), text_column="words")


def test_a_substitute_brings_its_own_transcript(tmp_path):
    write_clip(tmp_path / "b.wav")
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,WRONG\nb.wav,RIGHT\n")
    raw = open_dataset("audio", str(tmp_path), text_column="text")
    assert raw[0]["transcript"] == "RIGHT" and raw[0]["id"] == 0


@pytest.mark.parametrize("option", ["only_groups", "exclude_groups"])
def test_groups_of_a_source_without_them_say_which_option_to_leave_out(option):
    with pytest.raises(ValueError, match=f"no group column.*`group_column`, or set {option} to null"):
        open_dataset("vision", "builtin", **{option: ["george"]})


def test_a_forbidden_sample_is_bad_from_then_on():
    dataset = RawDataset("arrays", Table([np.full((2, 1), value) for value in range(3)]))
    assert dataset[1]["array"][0, 0] == 1, "it is in the cache"
    dataset.forbid(1, BadSample("wrong shape", "too small"))
    assert dataset[1]["array"][0, 0] == 2 and dataset[1]["id"] == 1
    assert dataset.bad.counts() == {"wrong shape": 1} and len(dataset.without_bad()) == 2
