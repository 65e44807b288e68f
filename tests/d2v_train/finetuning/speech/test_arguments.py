"""Where the parts of a speech data set come from."""

import numpy as np
import pytest
import soundfile

from d2v_train.data.records import open_dataset
from d2v_train.data.tables import ColumnNotFoundError, SplitNotFoundError
from d2v_train.finetuning.speech.arguments import CTCDataArguments, SpeechDataArguments


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


def test_where_the_parts_come_from(tmp_path):
    for folder in ("one/train", "one/validation", "other"):
        write_clip(tmp_path / folder / "a.wav")
    options = SpeechDataArguments(dataset_name=str(tmp_path / "one"))
    assert [len(options.open(part)) for part in ("train", "validation")] == [1, 1]
    # The only split of a folder of its own may have any name.
    assert (
        len(
            SpeechDataArguments(train_dir=str(tmp_path / "one"), validation_dir=str(tmp_path / "other")).open(
                "validation"
            )
        )
        == 1
    )
    with pytest.raises(SplitNotFoundError, match="'evening'"):
        SpeechDataArguments(dataset_name=str(tmp_path / "other"), validation_split="evening").open("validation")
    with pytest.raises(ValueError, match="validation"):
        SpeechDataArguments(train_dir=str(tmp_path / "one")).open("validation")
    with pytest.raises(ValueError, match="--dataset_name"):
        SpeechDataArguments()


def test_other_mistakes_are_not_taken_for_a_missing_split(tmp_path, monkeypatch):
    folder = tmp_path / "There is no split 'validation' in x"
    write_clip(folder / "validation" / "a.wav")
    write_clip(folder / "train" / "b.wav")
    options = SpeechDataArguments(validation_dir=str(folder), audio_column="sound_file")
    opened = []
    monkeypatch.setattr(
        "d2v_train.data.records.open_dataset",
        lambda modality, source, split, **rest: opened.append(split) or open_dataset(modality, source, split, **rest),
    )
    with pytest.raises(ColumnNotFoundError, match="no column 'sound_file'"):
        options.open("validation")
    assert opened == ["validation"]


def test_only_recordings_to_test_on_need_no_transcripts(tmp_path):
    for part in ("train", "test"):
        write_clip(tmp_path / part / "a.wav")
    options = CTCDataArguments(dataset_name=str(tmp_path))
    assert options.open("test").transcripts is None
    with pytest.raises(ColumnNotFoundError, match="no column of transcripts"):
        options.open("train")
    for wrong in ({"text_column": "spoken"}, {"group_column": "speaker_name"}):
        with pytest.raises(ColumnNotFoundError, match="transcripts|no group column 'speaker_name'"):
            CTCDataArguments(dataset_name=str(tmp_path), **wrong).open("test")


def test_groups_are_left_out_of_training_and_chosen_for_evaluation(tmp_path):
    for name in "abc":
        write_clip(tmp_path / f"{name}.wav")
    (tmp_path / "metadata.csv").write_text("file_name,speaker\na.wav,ann\nb.wav,bob\nc.wav,bob\n")
    options = SpeechDataArguments(str(tmp_path), validation_split="train", exclude_groups=["bob"], only_groups=["bob"])
    assert options.open("train").groups == ["ann"]
    assert options.open("validation").groups == ["bob", "bob"]
