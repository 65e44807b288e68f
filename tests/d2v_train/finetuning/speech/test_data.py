"""Recordings with transcripts: where they are found, how long they are, which are used, in which order."""

import json

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import open_dataset
from d2v_train.data.tables import TRANSCRIPT_COLUMNS, ColumnNotFoundError, SplitNotFoundError
from d2v_train.finetuning.speech.arguments import CTCDataArguments, SpeechDataArguments
from d2v_train.finetuning.speech.task import Selection
from d2v_train.finetuning.speech.training import LengthSampler


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


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


def test_a_substitute_brings_its_own_transcript(tmp_path):
    write_clip(tmp_path / "b.wav")
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,WRONG\nb.wav,RIGHT\n")
    raw = open_dataset("audio", str(tmp_path), text_column="text")
    assert raw[0]["transcript"] == "RIGHT" and raw[0]["id"] == 0


def test_lengths_come_from_headers(tmp_path):
    lengths = {"a.wav": (0.5, 16_000), "b.flac": (0.25, 44_100), "c.wav": (1.0, 8_000)}
    for name, (seconds, rate) in lengths.items():
        write_clip(tmp_path / name, seconds, rate)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    (tmp_path / "e.wav").write_bytes(b"")
    raw = open_dataset("audio", str(tmp_path))
    seconds = header_seconds(raw)
    np.testing.assert_allclose(seconds[:3], [0.5, 0.25, 1.0], atol=1e-4)
    assert np.isnan(seconds[3:]).all()
    assert not raw.bad, "nothing may be decoded"
    encoded = [(tmp_path / name).read_bytes() for name in lengths]
    rows = Dataset.from_dict({"audio": [{"bytes": data, "path": None} for data in encoded]})
    rows.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "parquet" / "train.parquet")
    parquet = open_dataset("audio", str(tmp_path / "parquet"))
    np.testing.assert_allclose(header_seconds(parquet.select([2, 0])), [1.0, 0.5], atol=1e-4)


def test_lengths_of_arrays():
    raw = open_dataset("audio", None)
    seconds = header_seconds(raw)
    assert seconds[3] == pytest.approx(len(raw[3]["audio"]) / 16_000, abs=1e-3)


def test_a_selection_gives_each_sample_one_reason(tmp_path):
    for name in "abcd":
        write_clip(tmp_path / f"{name}.wav")
    selection = Selection(open_dataset("audio", str(tmp_path)), "training")
    selection.leave_out("first", np.array([True, False, False, False]))
    selection.leave_out("second", np.array([True, False, True, False]))
    selection.leave_out("never", np.zeros(4, dtype=bool))
    assert selection.indices.tolist() == [1, 3]
    assert selection.names("second") == ["c.wav"]
    report = selection.report()
    assert "2 of 4 recordings" in report and "first: 1 (a.wav)" in report and "never" not in report
    selection.leave_out("rest", np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="training data"):
        selection.indices  # noqa: B018


def lengths_of(count=103, seed=0):
    return np.random.default_rng(seed).uniform(1, 20, count)


def padding(lengths, order):
    """Share of padded batches of 8 that is padding."""
    batches = [lengths[order[i : i + 8]] for i in range(0, len(order), 8)]
    return 1 - lengths.sum() / sum(batch.max() * len(batch) for batch in batches)


def test_the_order_by_length_is_a_permutation_of_even_batches():
    lengths = lengths_of(1003)
    sampler = LengthSampler(lengths, 8, 0, lambda: 0)
    order = list(sampler)
    assert len(sampler) == 1003 and sorted(order) == list(range(1003))
    assert padding(lengths, order) < 0.05 < 0.3 < padding(lengths, np.random.default_rng(1).permutation(1003))
    # A run does not learn from long recordings first, or last.
    means = [lengths[order[i : i + 8]].mean() for i in range(0, 1003, 8)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = lengths_of()
    orders = {
        (seed, epoch): list(LengthSampler(lengths, 8, seed, lambda e=epoch: e)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[1, 1] == list(LengthSampler(lengths, 8, 1, lambda: 1))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 103])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_epoch_takes_each_sample_once_however_few_there_are(count, epoch):
    lengths = lengths_of(count)
    order = list(LengthSampler(lengths, 8, 0, lambda: epoch))
    assert sorted(order) == list(range(count))
    for start in range(0, count, 8):
        assert (np.diff(lengths[order[start : start + 8]]) >= 0).all()


def test_unreadable_headers_count_as_short():
    lengths = np.array([3.0, np.nan, 2.0, 1.0])
    assert list(LengthSampler(lengths, 4, 0, lambda: 0)) == [1, 3, 2, 0]


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
