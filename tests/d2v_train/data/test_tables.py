"""Tables: columns and splits found by name, and joined."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import open_dataset
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


def test_joined_splits_keep_their_order():
    joined = concatenate([Table(["a", "b"]), Table(["c"]), Table(["d"])]).values
    assert [joined[i] for i in range(len(joined))] == list(joined) == ["a", "b", "c", "d"]


def test_an_unknown_encoding_is_refused_where_it_is_set():
    assert SourceSettings().encoding == "utf-8" and SourceSettings(encoding="latin-1").read_labels
    with pytest.raises(ValueError, match="'utf-9'.*latin-1"):
        SourceSettings(encoding="utf-9")


@pytest.mark.parametrize(
    "field",
    [
        {"value_range": [1.0]},
        {"value_range": [2, 1]},
        {"value_range": [3, 3]},
        {"max_pixels": 0},
        {"sampling_rate": -1},
    ],
)
def test_settings_of_decoding_are_checked(field):
    with pytest.raises(ValueError, match=f"Option {next(iter(field))} is "):
        SourceSettings(**field)


def test_settings_of_decoding_reach_the_records(tmp_path, caplog):
    for number, most in enumerate((1_000, 4_000)):
        Image.fromarray(np.array([[0, most]] * 2, dtype=np.uint16)).save(tmp_path / f"{number}.png")
    data = open_dataset("vision", str(tmp_path))
    assert [np.asarray(data[index]["image"]).max() for index in range(2)] == [
        round(255 / 1.023),
        round(255 * 4000 / 4095),
    ]
    assert caplog.text.count("value_range=[low, high]") == 1 and data.bad.counts() == {"reduced to 8 bits": 2}
    caplog.clear()
    data = open_dataset("vision", str(tmp_path), value_range=[0, 4_000])
    assert [np.asarray(data[index]["image"]).max() for index in range(2)] == [64, 255]
    assert caplog.text == "" and data.bad.counts() == {"reduced to 8 bits by value_range": 2}
    assert open_dataset("vision", str(tmp_path), max_pixels=3, on_bad="raise").bad.total == 0
    with pytest.raises(BadSample, match="max_pixels=3"):
        open_dataset("vision", str(tmp_path), max_pixels=3, on_bad="raise")[0]
