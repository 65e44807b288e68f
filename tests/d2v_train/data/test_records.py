"""Sources, splits, columns, groups, and what becomes of bad records."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from d2v_train.data.bad_samples import BadSample, BadSamples
from d2v_train.data.decoding import decode_audio, decode_image, decode_text
from d2v_train.data.records import RawDataset, draw_rows, open_dataset
from d2v_train.data.tables import (
    ColumnNotFoundError,
    SourceSettings,
    SplitNotFoundError,
    Table,
    UnclearColumnError,
    column_named_by,
    concatenate,
    pick_split,
)


def wave(seconds=0.1, rate=16_000, frequency=440.0, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone[:, None], (1, channels)).astype(np.float32).squeeze()


def write_wave(path: Path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(**options), options.get("rate", 16_000))


def write_picture(path: Path, colour=(200, 30, 60), size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


# ---- decoding


def test_audio_is_resampled_and_mixed_down():
    samples, notes = decode_audio({"array": wave(0.5, 8_000, channels=2), "sampling_rate": 8_000})
    assert samples.shape == (8_000,) and samples.dtype == np.float32
    assert notes == ["mixed down to mono", "resampled"]
    middle = slice(1_000, 7_000)
    np.testing.assert_allclose(samples[middle], wave(0.5)[middle], atol=5e-3)


def test_stereo_is_the_mean_of_its_channels():
    stereo = np.stack([np.full(400, 0.25), np.full(400, -0.75)], axis=1)
    samples, _ = decode_audio({"array": stereo, "sampling_rate": 16_000})
    np.testing.assert_allclose(samples, -0.25)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.zeros(0), "empty"), (np.array([0.0, np.nan]), "non-finite"), (np.array([0.0, np.inf]), "non-finite")],
)
def test_unusable_samples_are_told_apart(samples, reason):
    with pytest.raises(BadSample) as error:
        decode_audio({"array": samples, "sampling_rate": 16_000})
    assert error.value.reason == reason


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_damaged_audio_files(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8_000), 16_000)
    assert len(decode_audio(path)[0]) == 8_000
    encoded = path.read_bytes()
    for damaged, reasons in [
        (encoded[: len(encoded) // 2], {"truncated", "unreadable"}),
        (b"not audio at all" * 9, {"unreadable"}),
        (b"", {"empty"}),
    ]:
        with pytest.raises(BadSample) as error:
            decode_audio(damaged)
        assert error.value.reason in reasons
    with pytest.raises(BadSample, match="missing"):
        decode_audio(tmp_path / "absent.wav")


def test_images_are_upright_and_damaged_ones_are_noticed(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[274] = 6  # the camera was turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg").size == (4, 6)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    with pytest.raises(BadSample, match="truncated"):
        decode_image((tmp_path / "noise.jpg").read_bytes()[:1500])
    with pytest.raises(BadSample, match="unreadable"):
        decode_image(b"GIF89a nonsense")


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(decode_image(tmp_path / "deep.png", channels=1)).tolist() == [[0, 128, 255]]


def test_text_is_checked():
    assert decode_text(" caf\u00e9\n".encode()) == "caf\u00e9"
    for value, reason in [(b"caf\xe9", "not UTF-8"), ("  \n", "empty"), (None, "empty"), (7, "unreadable")]:
        with pytest.raises(BadSample) as error:
            decode_text(value)
        assert error.value.reason == reason


# ---- bad records in a data set


def texts(*values):
    return RawDataset("text", Table(list(values)))


def test_a_bad_record_is_replaced_by_the_next_good_one_under_its_own_id():
    data = texts("a", "", b"\xff\xfe", "d", " ")
    assert [data[i]["text"] for i in range(5)] == ["a", "d", "d", "d", "a"]
    assert [data[i]["id"] for i in range(5)] == list(range(5))
    assert data.bad.counts() == {"empty": 2, "not UTF-8": 1}
    assert data.bad.total == 3
    report = data.bad.report()
    assert "3 are unusable" in report and "row 1, row 4" in report and "not UTF-8: 1 (row 2)" in report


def test_samples_that_were_only_converted_are_not_called_bad():
    data = texts("a", "b")
    data.bad.mark(1, "resampled")
    assert data.bad.report() == "All 2 samples can be used. Noted:\n  resampled: 1"


def test_bad_records_are_counted_once_however_often_they_are_read():
    data = texts("a", "")
    for _ in range(3):
        data[1]
    assert data.bad.counts() == {"empty": 1}


def test_few_bad_records_are_logged_and_many_are_not(caplog):
    data = texts("good", *[""] * 50)
    data[1]
    assert len(caplog.records) == 6 and "row 5" in caplog.text and "row 6" not in caplog.text
    assert data.bad.total == 50


def test_only_bad_records_is_an_error():
    data = texts("", " ")
    with pytest.raises(ValueError, match="2 samples"):
        data[0]
    with pytest.raises(ValueError, match="2 samples"):
        texts("", " ").without_bad()


def test_raise_instead_of_substitute_and_leaving_out():
    table = Table(["a", "", "c"])
    with pytest.raises(BadSample):
        RawDataset("text", table, settings=SourceSettings(on_bad="raise"))[1]
    good = RawDataset("text", table).without_bad()
    assert [good[i]["text"] for i in range(len(good))] == ["a", "c"]


def test_what_workers_find_is_seen_by_the_main_process():
    data = texts("a", "", "c", b"\xff", "e", "")
    loader = DataLoader(data, batch_size=None, num_workers=2)
    assert [record["text"] for record in loader] == ["a", "c", "c", "e", "e", "a"]
    assert data.bad.counts() == {"empty": 2, "not UTF-8": 1}


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


def test_report_without_findings():
    bad = BadSamples(3)
    assert bad.report() == "No bad samples found among 3." and not bad
    bad.mark(1, "silent")
    assert bad and bad.total == 0


# ---- sources


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


def test_fingerprint_follows_records_and_names(tmp_path):
    for name in ("a", "b", "c"):
        write_wave(tmp_path / f"{name}.wav")
    before = open_dataset("audio", str(tmp_path)).fingerprint()
    assert before["records"] == 3 and before == open_dataset("audio", str(tmp_path)).fingerprint()
    (tmp_path / "c.wav").rename(tmp_path / "d.wav")
    renamed = open_dataset("audio", str(tmp_path))
    assert renamed.fingerprint()["records"] == 3 and renamed.fingerprint() != before
    assert renamed.select([0, 1]).fingerprint() != renamed.select([1, 0]).fingerprint()


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


def test_splits_stand_in_for_one_another(caplog):
    assert pick_split("test", ["train", "validation"], "x") == "validation"
    assert "'test'" in caplog.text and "'validation'" in caplog.text
    assert pick_split("validation", ["train", "dev", "test"], "x") == "dev"
    with pytest.raises(SplitNotFoundError, match="'test'"):
        pick_split("test", ["train"], "x")


@pytest.mark.parametrize("role", ["column", "label", "group", "length", "text"])
def test_a_column_that_is_missing_is_an_error_that_tells_its_role(tmp_path, role):
    write_wave(tmp_path / "a.wav")
    option = {"column": "column"}.get(role, f"{role}_column")
    with pytest.raises(ColumnNotFoundError, match="bitrate") as caught:
        open_dataset("audio", str(tmp_path), **{option: "bitrate"})
    assert caught.value.role == {"column": "input", "text": "transcript"}.get(role, role)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.role) == (str(caught.value), caught.value.role), "it crosses processes whole"


def test_programs_name_their_own_option_for_the_input_column():
    with pytest.raises(UnclearColumnError) as caught, column_named_by("--text_column"):
        raise UnclearColumnError("Two columns could be meant: a, b.")
    assert str(caught.value) == "Two columns could be meant: a, b. Name it with --text_column."
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert str(UnclearColumnError("Which?")) == "Which? Name it with the option `column`."


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


def test_several_data_sets_in_one_folder(tmp_path):
    make_parquet(tmp_path / "first")
    make_parquet(tmp_path / "second", rows=3)
    with pytest.raises(ValueError, match="first, second"):
        open_dataset("audio", str(tmp_path))
    assert len(open_dataset("audio", f"{tmp_path}:second")) == 3


def test_joined_splits_keep_their_order():
    joined = concatenate([Table(["a", "b"]), Table(["c"]), Table(["d"])]).values
    assert [joined[i] for i in range(len(joined))] == list(joined) == ["a", "b", "c", "d"]


# ---- real data


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
