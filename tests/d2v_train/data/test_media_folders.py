"""Folders of files: classes, splits, metadata, lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media_files import check_account, classes, files_of, opened, write_parquet, write_picture, write_text

from d2v_train.data.records import open_dataset
from d2v_train.data.tables import TRANSCRIPT_COLUMNS


def wave(seconds=0.1, rate=16_000, frequency=440.0, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone[:, None], (1, channels)).astype(np.float32).squeeze()


def write_wave(path: Path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(**options), options.get("rate", 16_000))


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
    assert len(open_dataset("audio", root, "train")) == len(open_dataset("audio", root, "train.clean.100")) == 3
    assert heard(open_dataset("audio", root, "validation", text_column="text")) == ["GO"]
    with pytest.raises(ValueError, match="train-clean-100"):
        open_dataset("audio", root, "train-other-500", text_column=TRANSCRIPT_COLUMNS)
    alone = open_dataset("audio", f"{root}/dev-clean", "train", text_column=TRANSCRIPT_COLUMNS)
    assert heard(alone) == ["GO"]


def test_a_listed_recording_that_does_not_exist_is_counted_as_missing(tmp_path):
    write_clip(tmp_path / "1" / "2" / "1-2-0000.flac")
    (tmp_path / "1" / "2" / "1-2.trans.txt").write_text("1-2-0000 HERE\n1-2-0001 GONE\n")
    raw = open_dataset("audio", str(tmp_path), text_column=TRANSCRIPT_COLUMNS)
    assert len(raw) == 2 and len(raw.without_bad()) == 1
    assert raw.bad.names("missing") == ["1/2/1-2-0001.flac"]


# ------------------------------------------------------------------------------------------- what folders hold


def test_linked_classes_splits_and_files(tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            write_picture(tmp_path / "real" / name / f"{number}.png")
    write_picture(tmp_path / "a" / "bird" / "0.png")
    for name in ("cat", "dog"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "real" / name)
    assert classes(opened("vision", tmp_path / "a")) == {"bird": 1, "cat": 3, "dog": 3}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train").symlink_to(tmp_path / "real")
    assert classes(opened("vision", tmp_path / "b")) == {"cat": 3, "dog": 3}
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "c" / part / name).mkdir(parents=True)
            (tmp_path / "c" / part / name / "0.png").symlink_to(tmp_path / "real" / name / "0.png")
    (tmp_path / "c" / "train" / "cat" / "9.png").symlink_to(tmp_path / "nothing.png")
    data = opened("vision", tmp_path / "c")
    assert classes(data) == {"cat": 1, "dog": 1} and data[1]["image"].size == (6, 4)
    assert data.inventory.left_out == {"a broken link": ["train/cat/9.png"]}
    assert data.inventory.samples == {"test": 2, "train": 2} and data.inventory.files == 5


@pytest.mark.parametrize("name", ["train", "test", "val", "Train"])
def test_a_class_named_like_a_split_beside_others_is_a_class(tmp_path, name):
    for folder in ("car", "plane", name):
        write_picture(tmp_path / folder / "0.png")
    data = opened("vision", tmp_path)
    assert classes(data) == {"car": 1, "plane": 1, name: 1}
    assert data.inventory.layout == "pictures, one folder per class (3 classes)"
    assert data.inventory.notes == [f"the folder {name} is a class, not a split, like those beside it"]


def test_pictures_beside_classes_have_no_label_and_beside_splits_are_left_out(tmp_path):
    for name in ("0.png", "cat/1.png", "dog/small/2.png"):
        write_picture(tmp_path / "a" / name)
    assert classes(opened("vision", tmp_path / "a")) == {None: 1, "cat": 1, "dog": 1}
    for name in ("0.png", "train/cat/1.png", "test/cat/2.png", "extra/cat/3.png"):
        write_picture(tmp_path / "b" / name)
    data = opened("vision", tmp_path / "b")
    assert files_of(data) == ["train/cat/1.png"] and files_of(opened("vision", tmp_path / "b", "extra")) == [
        "extra/cat/3.png"
    ]
    (reason,) = data.inventory.left_out
    assert "beside the folders of the splits" in reason and data.inventory.left_out[reason] == ["0.png"]


def test_suffixes_in_any_case_and_what_to_do_about_others(tmp_path):
    for name in ("a.PNG", "b.Jpeg", "c.JPG"):
        write_picture(tmp_path / name)
    for name in ("d.HEIC", "e.xyz", "f", "LICENSE", "notes.md", "g.wav", "h.csv", "i.zip", "Thumbs.db"):
        write_text(tmp_path / name, "x")
    for name in (".DS_Store", ".cache/j.png"):
        write_text(tmp_path / name)
    data = opened("vision", tmp_path)
    assert files_of(data) == ["a.PNG", "b.Jpeg", "c.JPG"] and data.inventory.hidden == 2
    reasons = {name: reason for reason, names in data.inventory.left_out.items() for name in names}
    assert "magick" in reasons["d.HEIC"] and ".xyz" in reasons["e.xyz"] and reasons["f"] == "it has no suffix"
    assert reasons["LICENSE"] == reasons["notes.md"] == "it describes the data"
    assert reasons["g.wav"] == "recordings in a source of pictures" and reasons["h.csv"].startswith("a table beside")
    assert reasons["i.zip"].startswith("an archive") and len(reasons) == 9
    check_account(data.inventory, tmp_path)


# ------------------------------------------------------------------------------------------------- metadata


def make_pictures(root, *names):
    for name in names:
        write_picture(root / name)


def test_metadata_above_split_folders_gives_each_row_the_split_of_its_path(tmp_path):
    names = [f"{part}/{number}.png" for part in ("train", "test") for number in range(4)]
    make_pictures(tmp_path, *names, "train/9.png")
    write_text(
        tmp_path / "metadata.csv",
        "file_name,label\n" + "".join(f"{name},{'ab'[int(name[-5]) % 2]}\n" for name in names),
    )
    for part in ("train", "test"):
        data = opened("vision", tmp_path, part)
        assert classes(data) == {"a": 2, "b": 2} and all(name.startswith(part) for name in files_of(data))
    assert data.inventory.left_out == {"it is not listed in metadata.csv": ["train/9.png"]}


@pytest.mark.parametrize("place", ["", "sub/", "train/"])
@pytest.mark.parametrize("written", ["train\\0.png", "./train/../train/0.png", "{root}/train/0.png", " train/0.png"])
def test_ways_to_write_a_path(tmp_path, place, written):
    make_pictures(tmp_path, "train/0.png", "test/1.png")
    up = "" if place == "" else "../"
    name = written.format(root=tmp_path) if "{root}" in written else written.replace("train", f"{up}train", 1)
    write_text(tmp_path / place / "metadata.csv", f"file_name,label\n{name},a\n{up}test/1.png,b\n")
    assert files_of(opened("vision", tmp_path)) == ["train/0.png"]
    assert files_of(opened("vision", tmp_path, "test")) == ["test/1.png"]
    assert opened("vision", tmp_path, "test").labels.tolist() == [1]


def test_files_outside_of_the_source_and_missing_ones_are_counted(tmp_path):
    make_pictures(tmp_path, "else/0.png", "source/1.png")
    write_text(
        tmp_path / "source" / "metadata.csv", f"file_name\n../else/0.png\n1.png\n2.png\n{tmp_path}/else/0.png\n"
    )
    data = opened("vision", tmp_path / "source")
    assert len(data) == 4 and len(data.without_bad()) == 3 and data.bad.names("missing") == ["2.png"]
    assert "1 listed files do not exist (2.png)" in data.inventory.notes
    assert "2 listed files lie outside the source, or are hidden" in data.inventory.notes
    assert data.inventory.used == ["1.png", "metadata.csv"]


def test_names_with_accents_composed_in_another_way(tmp_path):
    make_pictures(tmp_path, "caf\u00e9.png", "u\u0308.png")
    write_text(tmp_path / "metadata.csv", "file_name,label\ncafe\u0301.png,a\n\u00fc.png,b\n")
    data = opened("vision", tmp_path)
    assert len(data.without_bad()) == 2 and data.inventory.left_out == {}


def test_rows_are_never_merged(tmp_path):
    make_pictures(tmp_path, "0.png", "1.png")
    write_text(tmp_path / "metadata.csv", "file_name,text\n0.png,one\n0.png,two\n1.png,three\n")
    data = opened("vision", tmp_path, text_column="text")
    assert data.transcripts == ["one", "two", "three"]
    assert any(note.startswith("1 rows list a file again") for note in data.inventory.notes)


def test_a_file_in_two_metadata_files_is_described_by_the_nearest(tmp_path):
    make_pictures(tmp_path, "train/0.png", "train/1.png")
    write_text(tmp_path / "metadata.csv", "file_name,label\ntrain/0.png,far\ntrain/1.png,far\n")
    write_text(tmp_path / "train" / "metadata.jsonl", '{"file_name": "0.png", "label": "near"}\n')
    data = opened("vision", tmp_path)
    assert classes(data) == {"near": 1, "far": 1}
    assert any(note.startswith("1 rows are left out") for note in data.inventory.notes)
    write_text(tmp_path / "train" / "metadata.csv", "file_name,label\n0.png,near\n")
    assert classes(opened("vision", tmp_path)) == {"near": 1, "far": 1}
    write_text(tmp_path / "train" / "metadata.csv", "file_name,label\n0.png,other\n")
    with pytest.raises(ValueError, match="metadata.csv and .*metadata.jsonl both describe train/0.png.*'label'"):
        opened("vision", tmp_path)


@pytest.mark.parametrize(
    "values, expected",
    [
        (["cat", "dog", "", "cat", " ", "dog"], {"cat": 2, "dog": 2, None: 2}),
        (["0", "1", "-1", "0", "-1", "1"], {0: 2, 1: 2, None: 2}),
        (["cat", "cat ", " cat", "dog", "dog", "cat"], {"cat": 4, "dog": 2}),
        (["NA", "None", "null", "NA", "nan", "-"], {"NA": 2, "None": 1, "null": 1, "nan": 1, "-": 1}),
        (["007", "01", "1", "1", "01", "007"], {"007": 2, "01": 2, "1": 2}),
        (["", "", "", "", "", "dog"], {"dog": 1, None: 5}),
        (["", "", "", "", "", ""], None),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_missing_labels_and_words_that_are_none(tmp_path, values, expected, suffix):
    make_pictures(tmp_path, *(f"{number}.png" for number in range(6)))
    rows = [{"file_name": f"{number}.png", "label": value} for number, value in enumerate(values)]
    if suffix == "jsonl":
        if values[0] == "0":
            rows = [{**row, "label": int(row["label"])} for row in rows]
        content = "\n".join(map(json.dumps, rows))
    else:
        separator = "\t" if suffix == "tsv" else ","
        content = "\n".join([separator.join(rows[0]), *(separator.join(row.values()) for row in rows)])
    write_text(tmp_path / f"metadata.{suffix}", content)
    data = opened("vision", tmp_path)
    if data.labels is not None and data.label_names is None:
        assert data.labels.dtype == np.int64
    assert classes(data) == expected


def test_a_column_of_splits_tells_the_split(tmp_path):
    make_pictures(tmp_path, *(f"pictures/{number}.png" for number in range(4)))
    rows = [
        f"pictures/{number}.png,{'ab'[number % 2]},{('train', 'train', 'Val', 'test')[number]}\n"
        for number in range(4)
    ]
    write_text(tmp_path / "metadata.csv", "file_name,label,split\n" + "".join(rows))
    assert [len(opened("vision", tmp_path, split)) for split in ("train", "validation", "test")] == [2, 1, 1]


def test_a_table_of_something_else_never_makes_a_folder_something_else(tmp_path):
    for name in "abcd":
        make_pictures(tmp_path / name, "cat/0.png", "cat/1.png", "dog/0.png")
    write_parquet(tmp_path / "a" / "metadata.parquet", file_name=["cat/0.png", "dog/0.png"], label=["x", "y"])
    assert classes(opened("vision", tmp_path / "a")) == {"x": 1, "y": 1}
    write_parquet(tmp_path / "b" / "index.parquet", x=[1])
    data = opened("vision", tmp_path / "b")
    assert classes(data) == {"cat": 2, "dog": 1} and next(iter(data.inventory.left_out)).startswith("a table beside")
    write_parquet(tmp_path / "b" / "metadata.parquet", x=[1])
    assert classes(opened("vision", tmp_path / "b")) == {"cat": 2, "dog": 1}
    (tmp_path / "c" / ".cache").mkdir()
    write_parquet(tmp_path / "c" / ".cache" / "index.parquet", image=[b"x"])
    assert len(opened("vision", tmp_path / "c")) == 3
    encoded = (tmp_path / "d" / "cat" / "0.png").read_bytes()
    write_parquet(tmp_path / "d" / "train.parquet", image=[encoded] * 2, label=["p", "q"])
    data = opened("vision", tmp_path / "d")
    assert classes(data) == {"p": 1, "q": 1} and data.inventory.used == ["train.parquet"] and data.inventory.files == 4


def test_pretraining_reads_no_labels_of_metadata(tmp_path):
    make_pictures(tmp_path, "0.png", "1.png")
    write_text(
        tmp_path / "metadata.jsonl", '{"file_name": "0.png", "label": {}}\n{"file_name": "1.png", "label": 0.5}\n'
    )
    with pytest.raises(ValueError, match="label"):
        opened("vision", tmp_path)
    assert len(opened("vision", tmp_path, read_labels=False)) == 2
    write_text(
        tmp_path / "metadata.jsonl",
        '{"file_name": "0.png", "label": ["a", "b"]}\n{"file_name": "1.png", "label": ["b"]}',
    )
    data = opened("vision", tmp_path)
    assert data.labels.tolist() == [[1, 1], [0, 1]] and data.label_names == ["a", "b"]


def test_metadata_of_another_modality_does_not_hide_files(tmp_path):
    make_pictures(tmp_path, "0.png")
    write_clip(tmp_path / "1.wav")
    write_text(tmp_path / "metadata.csv", "file_name,label\n0.png,a\n")
    assert files_of(opened("audio", tmp_path)) == ["1.wav"] and files_of(opened("vision", tmp_path)) == ["0.png"]


@pytest.mark.parametrize("name", ["holdout", "unlabeled", "extra", "fold 1"])
def test_a_value_of_the_column_of_splits_is_a_split_beside_usual_ones(tmp_path, name):
    for i in range(3):
        write_picture(tmp_path / f"{i}.png")
    write_text(tmp_path / "metadata.csv", f"file_name,split\n0.png,Train\n1.png,{name} \n2.png,\n")
    data = opened("vision", tmp_path)
    assert data.inventory.samples == {"train": 2, name: 1} and files_of(data) == ["0.png", "2.png"]
    assert files_of(opened("vision", tmp_path, split=name)) == ["1.png"]


@pytest.mark.parametrize("values", ["01", "AB", ["left", "right"], ["attest", "untrained"]])
def test_a_column_of_splits_without_splits_means_nothing_and_is_noted(tmp_path, values):
    for i in range(2):
        write_picture(tmp_path / f"{i}.png")
    write_text(tmp_path / "metadata.csv", f"file_name,split\n0.png,{values[0]}\n1.png,{values[1]}\n")
    data = opened("vision", tmp_path)
    assert len(data) == 2 and data.inventory.samples == {"train": 2}
    assert "column `split` of metadata.csv does not name splits" in data.inventory.notes[0]


@pytest.mark.parametrize("written, name", [("a.jpg", "a.JPG"), ("IMG/A.PNG", "img/a.png"), ("Ä.png", "a\u0308.png")])
def test_a_path_in_another_case_is_found_unless_it_is_ambiguous(tmp_path, written, name):
    write_picture(tmp_path / name)
    write_text(tmp_path / "metadata.csv", f"file_name,label\n{written},x\n")
    assert files_of(opened("vision", tmp_path)) == [name]


def test_a_path_that_several_files_have_in_another_case_is_missing(tmp_path):
    for name in ("a.PNG", "A.png", "b.PNG"):
        write_picture(tmp_path / name)
    write_text(tmp_path / "metadata.csv", "file_name\nA.PNG\nA.png\nB.png\n")
    data = opened("vision", tmp_path)
    assert files_of(data) == ["A.PNG", "A.png", "b.PNG"]
    assert data.inventory.notes == ["1 listed files do not exist (A.PNG)"]


def test_classes_of_metadata_beside_those_of_folders_are_noted(tmp_path):
    for name in ("train/a/0.png", "train/b/1.png", "val/a/0.png", "val/b/1.png"):
        write_picture(tmp_path / name)
    write_text(tmp_path / "train" / "metadata.csv", "file_name,label\na/0.png,x\nb/1.png,y\n")
    inventory = opened("vision", tmp_path).inventory
    assert inventory.samples == {"train": 2, "val": 2}
    assert "some classes are told by metadata, others by folders" in inventory.notes
    write_text(tmp_path / "val" / "metadata.csv", "file_name,label\na/0.png,x\nb/1.png,y\n")
    assert opened("vision", tmp_path).inventory.notes == []


@pytest.mark.parametrize("content", ["file_name,label\n", "file_name,label\n,\n,,\n", "file_name|label\n \n", ""])
def test_metadata_that_lists_nothing_is_refused_in_a_sentence(tmp_path, content):
    write_picture(tmp_path / "0.png")
    write_text(tmp_path / "metadata.csv", content)
    with pytest.raises(ValueError, match="metadata.csv (lists no files|has no column `file_name`)"):
        opened("vision", tmp_path)


@pytest.mark.parametrize("wanted", ["train", "train.clean.100", "train-other-500", "training", "Train_small"])
def test_a_source_without_splits_is_the_training_split(tmp_path, caplog, wanted):
    for i in range(2):
        write_picture(tmp_path / f"{i}.png")
    assert len(opened("vision", tmp_path, split=wanted)) == 2
    assert ("using its split 'train'" in caplog.text) == (wanted not in ("train", "training"))
    assert len(opened("vision", tmp_path, split=f"train.clean.100+{wanted}+train.other.500")) == 2
    for other in ("trainer", "validation", "test"):
        with pytest.raises(ValueError, match=f"no split '{other}'.*It has: train"):
            opened("vision", tmp_path, split=other)
