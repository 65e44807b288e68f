"""Folders of files: classes, splits, metadata, lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_train.data.records import open_dataset
from d2v_train.data.tables import TRANSCRIPT_COLUMNS


def wave(seconds=0.1, rate=16_000, frequency=440.0, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone[:, None], (1, channels)).astype(np.float32).squeeze()


def write_wave(path: Path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(**options), options.get("rate", 16_000))


def write_picture(path: Path, colour=(200, 30, 60), size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def test_image_folder_with_classes_splits_and_a_bad_file(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for number, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_picture(tmp_path / split / name / f"{i}.png", colour=(number * 100, 0, 0))
    (tmp_path / "train" / "dog" / "9.png").write_bytes(b"\x89PNG broken")
    data = open_dataset("vision", str(tmp_path))
    assert len(data) == 7 and data.label_names == ["cat", "dog"]
    records = [data[i] for i in range(7)]
    good = [r for i, r in enumerate(records) if not data.bad.is_bad(i)]
    assert all(r["image"].getpixel((0, 0))[0] == r["label"] * 100 for r in good) and len(good) == 6
    assert data.bad.counts() == {"unreadable": 1} and "9.png" in data.bad.report()
    assert len(open_dataset("vision", str(tmp_path), "test")) == 2
    assert len(open_dataset("vision", str(tmp_path), "train+test")) == 9


def test_flat_image_folder_has_no_labels(tmp_path):
    for i in range(3):
        write_picture(tmp_path / f"{i}.jpg", size=(5, 5))
    data = open_dataset("vision", str(tmp_path), channels=1)
    assert len(data) == 3 and data[0]["label"] is None and data[0]["image"].mode == "L"


def test_audio_folder_with_metadata(tmp_path):
    lines = ["file_name,speaker,label"]
    for i, speaker in enumerate(("ann", "bob", "ann")):
        write_wave(tmp_path / f"{i}.wav", seconds=0.1 * (i + 1))
        lines.append(f"{i}.wav,{speaker},{'yes' if i else 'no'}")
    lines.append("absent.wav,bob,yes")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    data = open_dataset("audio", str(tmp_path))
    assert [len(data[i]["audio"]) for i in range(4)] == [1600, 3200, 4800, 1600]
    assert data.groups == ["ann", "bob", "ann", "bob"]
    assert [data[i]["label"] for i in range(3)] == [0, 1, 1] and data.label_names == ["no", "yes"]
    assert data.bad.names("missing") == ["absent.wav"]
    (tmp_path / "metadata.csv").write_text("name\n0.wav")
    with pytest.raises(ValueError, match="metadata.csv.*`file_name`"):
        open_dataset("audio", str(tmp_path))


def test_classes_are_numbered_alike_in_all_splits(tmp_path):
    for split, names in (("train", "bc"), ("test", "abc")):
        for name in names:
            write_picture(tmp_path / split / name / "0.png")
    assert [open_dataset("vision", str(tmp_path), split).labels.tolist() for split in ("train", "test")] == [
        [1, 2],
        [0, 1, 2],
    ]


def test_audio_folder_with_classes(tmp_path):
    for name in ("go", "stop"):
        write_wave(tmp_path / name / "a.flac", rate=8_000)
    data = open_dataset("audio", str(tmp_path))
    assert [data[i]["label"] for i in range(2)] == [0, 1] and len(data[0]["audio"]) == 1600
    assert data.bad.counts() == {"resampled": 2} and data.bad.total == 0


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


def test_text_files(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.txt").write_bytes(b"one\r\nline two\r\n\r\n \r\nsecond\n\n\ncaf\xe9\n\nlast")
    (tmp_path / "valid.txt").write_text("held out")
    data = open_dataset("text", str(tmp_path))
    assert len(data) == 4
    assert [data[i]["text"] for i in range(4)] == ["one\nline two", "second", "last", "last"]
    assert data.bad.names("not UTF-8") == ["train/a.txt, document 3"]
    assert open_dataset("text", str(tmp_path), "test")[0]["text"] == "held out"


def test_json_lines(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"sentence1": "a", "sentence2": "b", "label": "no"}, {"sentence1": "c", "sentence2": "d", "label": "yes"}]
    path.write_text("\n".join([*map(json.dumps, rows), '{"sentence1": broken']))
    data = open_dataset("text", str(path))
    assert (data[1]["text"], data[1]["text_pair"], data[1]["label"]) == ("c", "d", 1)
    assert data[2]["text"] == "a" and data.bad.counts() == {"unreadable": 1}
    path.write_text(json.dumps({"number": 3}))
    with pytest.raises(ValueError, match="`column`"):
        open_dataset("text", str(path))


def test_json_lines_without_text_are_bad_records(tmp_path, caplog):
    path = tmp_path / "texts.jsonl"
    lines = ['{"id": 4, "text": null, "label": 1}', "{}", '{"title": "no", "text": "one", "label": 0}', '{"text": 7}',
             "null", '"two"', '{"label": 1}', "1" * 5000]  # fmt: skip
    path.write_text("\n".join(lines))
    data = open_dataset("text", str(path))
    assert [data[index]["text"] for index in range(8)] == ["one"] * 3 + ["two"] * 3 + ["one"] * 2
    assert data.bad.counts() == {"empty": 4, "unreadable": 2}
    assert data.labels.tolist() == [1, -1, 0, -1, -1, -1, 1, -1]
    path.write_text("{}\n{}")
    with pytest.raises(ValueError, match="2 samples"):
        open_dataset("text", str(path))[0]


def test_broken_metadata_names_its_file(tmp_path):
    write_wave(tmp_path / "a.wav")
    for content in (b'{"file_name": ', b"\xff\xfe", b"7"):
        (tmp_path / "metadata.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match="metadata.jsonl"):
            open_dataset("audio", str(tmp_path))


def test_several_data_sets_in_one_folder(tmp_path):
    make_parquet(tmp_path / "first")
    make_parquet(tmp_path / "second", rows=3)
    with pytest.raises(ValueError, match="first, second"):
        open_dataset("audio", str(tmp_path))
    assert len(open_dataset("audio", f"{tmp_path}:second")) == 3


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


def heard(raw):
    return [raw[i]["transcript"] for i in range(len(raw))]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_transcripts_of_metadata(tmp_path, kind):
    for split, texts in {"train": ["A B", ""], "validation": ["C"]}.items():
        for number in range(len(texts)):
            write_clip(tmp_path / split / f"{number}.wav")
        rows = [{"file_name": f"{number}.wav", "transcription": text} for number, text in enumerate(texts)]
        if kind == "jsonl":
            lines = [json.dumps(row) for row in rows]
        else:
            lines = ["file_name,transcription", *(",".join(row.values()) for row in rows)]
        (tmp_path / split / f"metadata.{kind}").write_text("\n".join(lines))
    assert heard(open_dataset("audio", str(tmp_path), text_column=TRANSCRIPT_COLUMNS)) == ["A B", ""]
    both = open_dataset("audio", str(tmp_path), "train+validation", text_column="transcription")
    assert heard(both) == both.transcripts == ["A B", "", "C"]


def test_librispeech_as_it_is_published(tmp_path):
    for chapter, lines in {
        "train-clean-100/19/198": ["19-198-0000 NORTHANGER ABBEY", "19-198-0001 THIS LITTLE WORK"],
        "train-clean-100/26/495": ["26-495-0000 IN NOVEMBER"],
        "dev-clean/84/121": ["84-121-0000 GO"],
    }.items():
        folder = tmp_path / "LibriSpeech" / chapter
        for line in lines:
            write_clip(folder / f"{line.split()[0]}.flac")
        (folder / f"{'-'.join(chapter.split('/')[1:])}.trans.txt").write_text("\n".join(lines) + "\n")
    root = str(tmp_path / "LibriSpeech")
    raw = open_dataset("audio", root, "train-clean-100", text_column=TRANSCRIPT_COLUMNS)
    assert heard(raw) == ["NORTHANGER ABBEY", "THIS LITTLE WORK", "IN NOVEMBER"]
    assert raw.groups == ["19", "19", "26"]
    assert len(open_dataset("audio", root, "train-clean-100+dev-clean", text_column=TRANSCRIPT_COLUMNS)) == 4
    with pytest.raises(ValueError, match="train-clean-100"):
        open_dataset("audio", root, "train", text_column=TRANSCRIPT_COLUMNS)
    alone = open_dataset("audio", f"{root}/dev-clean", "train", text_column=TRANSCRIPT_COLUMNS)
    assert heard(alone) == ["GO"]


def test_a_listed_recording_that_does_not_exist_is_counted_as_missing(tmp_path):
    write_clip(tmp_path / "1" / "2" / "1-2-0000.flac")
    (tmp_path / "1" / "2" / "1-2.trans.txt").write_text("1-2-0000 HERE\n1-2-0001 GONE\n")
    raw = open_dataset("audio", str(tmp_path), text_column=TRANSCRIPT_COLUMNS)
    assert len(raw) == 2 and len(raw.without_bad()) == 1
    assert raw.bad.names("missing") == ["1/2/1-2-0001.flac"]
