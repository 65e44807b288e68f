"""Broken files in a run: each is named once, whoever met it and however often the run was interrupted."""

import json
import os

import numpy as np
import pytest
import torch
from broken_data import write_picture_table, write_pictures, write_recordings, write_texts
from tiny_run import before_step, pretrain, pretrain_two, stopped_before, tiny, write_config

from d2v_train.batching.batches import load_steps
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio, decode_image
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.report import BadRecord, DataReport, NoUsableSample
from d2v_train.data.rows import MemoryRows, Rows
from d2v_train.data.substitutes import candidates, check_item, usable_item
from d2v_train.data.tables import Table
from d2v_train.health.guard import TrainingStopped
from d2v_train.health.ledger import BadSampleLedger, data_explained
from d2v_train.inputs.packing import PackedTextDataset
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.pretraining.run_tokenizer import prepare_tokenizer
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.jsonl import read_log


TINY = tiny(
    "text",
    "vision",
    "audio",
    max_steps=12,
    logging={"every": 3},
    checkpoints={"every": 3},
    health={"max_bad_fraction": 1},
    vision={"batch_size": 5},
    audio={"batch_size": 4, "transform": {"crop_seconds": 0.1}, "dataset": {"max_samples": None}},
    model={"vision_config": {"num_channels": 3}},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Configuration of a run over broken data, and what is broken in it and unusual by modality."""
    folder = tmp_path_factory.mktemp("data")
    pictures, odd_pictures = write_pictures(folder / "vision")
    recordings, odd_recordings = write_recordings(folder / "audio")
    broken = {"text": write_texts(folder / "text"), "vision": pictures, "audio": recordings}
    sources = {name: str(folder / name) for name in broken}
    return write_config(folder, TINY | {"data": sources}), broken, {"vision": odd_pictures, "audio": odd_recordings}


def lines(folder):
    return [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]


def named(listed):
    reasons = {}
    for line in listed:
        reasons.setdefault(line["modality"], {})[line["name"]] = line["reason"]
    return reasons


# ---- runs


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Folder and summary of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, pretrain(data[0], folder)


def test_a_run_over_broken_data_completes_and_names_each_broken_sample_once(data, whole):
    _, broken, unusual = data
    folder, summary = whole
    listed = lines(folder)
    assert named(listed) == broken and len(listed) == sum(map(len, broken.values()))
    assert [line["step"] for line in listed] == sorted(line["step"] for line in listed)
    assert {line["step"] for line in listed if line["modality"] == "text"} == {0}, "packed when the data was set up"
    assert all(line["process"] == 0 and line["detail"] for line in listed)
    assert {line["source"] for line in listed} == {str(data[0].parent / name) for name in broken}
    for name, notes in unusual.items():
        counts = {note: list(notes.values()).count(note) for note in notes.values()}
        assert summary["unusual_samples"][name] == counts
    assert sum(summary["bad_samples"]["vision"].values()) == len(broken["vision"])
    assert summary["steps"] == 12 and summary["skipped_steps"] == 0
    last = read_log(folder / "log.jsonl")[-1]
    assert {name: last[f"{name}/bad_samples"] for name in broken} == {name: len(of) for name, of in broken.items()}


def test_workers_make_the_same_list(data, whole, tmp_path):
    pretrain(data[0], tmp_path, "data.num_workers=2")
    assert lines(tmp_path) == lines(whole[0])


def test_an_interrupted_run_makes_the_same_list(data, whole, tmp_path):
    with stopped_before(7):
        pretrain(data[0], tmp_path, "checkpoints.every=4")
    before = lines(tmp_path)
    assert before[-1]["step"] > 4, "something was met after the checkpoint, and will be met again"
    with open(tmp_path / "bad_samples.jsonl", "a") as file:
        file.write('{"step": 7, "modality": "aud')  # the kill came in the middle of a line
    pretrain(data[0], tmp_path, "checkpoints.every=4")
    assert lines(tmp_path) == lines(whole[0])
    assert read_log(tmp_path / "log.jsonl")[-1]["audio/bad_samples"] == 6


def test_a_run_with_too_many_bad_samples_stops_and_says_where(data, tmp_path, monkeypatch):
    monkeypatch.setattr("d2v_train.health.ledger.TOLERATED", 3)
    with pytest.raises(TrainingStopped, match="health.max_bad_fraction=0.2.*bad_samples.jsonl"):
        pretrain(data[0], tmp_path, "health.max_bad_fraction=0.2", "text=null", "model.text_config=null")
    assert len(lines(tmp_path)) > 3


def test_data_without_a_good_sample_ends_in_a_sentence(data, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    (tmp_path / "run").mkdir()
    gone = [f"{part}=null" for name in ("text", "vision") for part in (name, f"model.{name}_config")]
    with pytest.raises(TrainingStopped, match=r"^None of the 5 samples can be used.*empty: 5 .*Check that"):
        pretrain(data[0], tmp_path / "run", f"data.audio={tmp_path}", *gone)


def test_files_that_go_away_are_counted_until_they_are_too_many(tmp_path):
    write_squares(tmp_path / "pictures", 30)

    def unmount():
        for number in range(0, 30, 2):
            (tmp_path / "pictures" / f"{number:02}.png").unlink()

    section = {"batch_size": 10, "dataset": {"cache": False}}
    settings = tiny("vision", max_steps=12, data={"vision": str(tmp_path / "pictures")}, vision=section)
    config = write_config(tmp_path, settings | {"checkpoints": {"every": 3}, "health": {"max_bad_fraction": 0.4}})
    with (
        before_step(3, unmount),
        pytest.raises(TrainingStopped, match=r"^1[3-5] of the 30 vision samples .*: 1[3-5] missing\. "),
    ):
        pretrain(config, tmp_path / "run")
    listed = lines(tmp_path / "run")
    assert {line["reason"] for line in listed} == {"missing"} and all(line["step"] > 3 for line in listed)
    # Mounted again, and the list removed as the message says, the run goes on from its checkpoint.
    write_squares(tmp_path / "pictures", 30)
    (tmp_path / "run" / "bad_samples.jsonl").unlink()
    assert pretrain(config, tmp_path / "run")["bad_samples"] == {}


def write_squares(folder, count):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        decode_image(np.full((8, 8), 8 * number, np.uint8)).save(folder / f"{number:02}.png")


@pytest.mark.slow
def test_two_processes_make_the_same_list(data, whole, tmp_path):
    pretrain_two(data[0], tmp_path / "run")
    alone, together = lines(whole[0]), lines(tmp_path / "run")
    assert {line.pop("process") for line in together} == {0, 1}
    assert [{name: value for name, value in line.items() if name != "process"} for line in alone] == together


# ---- the share of bad samples


def ledger(path, max_fraction, size, draws, bad, hits, modality="vision"):
    found = BadSampleLedger(path, max_fraction)
    records = [BadRecord(modality, "a", "train", row, f"row {row}", "empty", "") for row in range(bad)]
    found.register_data({modality: size}, DataReport())
    found.add(1, [DataReport({modality: draws}, {modality: hits}, {record.key: record for record in records})])
    return found


@pytest.mark.parametrize(
    ("max_fraction", "size", "draws", "bad", "hits", "stops"),
    [
        (0.01, 3, 300, 1, 100, False),
        (0.01, 1000, 500, 10, 10, False),
        (0.01, 1000, 500, 11, 5, True),  # whatever is still to come, it is more than a hundredth
        (0.01, 10**6, 2000, 20, 20, False),
        (0.01, 10**6, 2000, 21, 21, True),  # of those drawn so far
        (0.01, 10**6, 20, 100, 1, False),  # one that was drawn, and its neighbours that might have stood in
        (0.01, None, 9000, 95, 90, False),  # nobody knows how many a stream has
        (0.01, None, 9000, 95, 91, True),
        (0.0, 1000, 500, 1, 1, True),
        (0.0, 1000, 500, 0, 0, False),
        (1.0, 30, 30, 30, 30, False),
    ],
)
def test_share_above_which_a_run_stops(tmp_path, max_fraction, size, draws, bad, hits, stops):
    found = ledger(tmp_path / "bad_samples.jsonl", max_fraction, size, draws, bad, hits)
    if stops:
        with pytest.raises(TrainingStopped, match=rf"^{bad} of the .* vision .*{bad} empty|^{hits} of the .* drawn"):
            found.check()
    else:
        found.check()
    assert found.record() == {"vision/bad_samples": bad}


def test_only_the_first_bad_samples_are_shown(tmp_path, caplog):
    ledger(tmp_path / "bad_samples.jsonl", 1, 100, 100, 50, 50)
    assert len(caplog.records) == 6 and "row 4" in caplog.text and "row 5" not in caplog.text
    assert len(read_log(tmp_path / "bad_samples.jsonl")) == 50


def test_a_share_is_a_share():
    with pytest.raises(OptionError, match="max_bad_fraction.*2"):
        load_options("tiny_vision", ["output_dir=x", "health.max_bad_fraction=2"])


# ---- one sample


def texts(*values):
    return RawDataset("text", Table(list(values)), source="here", split="train")


def test_each_step_reports_all_that_it_met_also_what_was_met_before():
    data = texts("a", "", "c")
    for _ in range(2):
        report = DataReport()
        assert data.read(1, report)["text"] == "c"
        assert list(report.bad.values()) == [BadRecord("text", "here", "train", 1, "row 1", "empty", "no text")]
        assert report.draws == report.bad_draws == {"text": 1}, "the one that stood in was not asked for"


def test_a_damaged_folder_counts_as_one_when_it_is_drawn_once():
    data = texts(*["good"] * 1000, *[""] * 80, *["good"] * 1000)
    report = DataReport()
    data.read(1000, report)
    assert len(report.bad) == 80 and report.draws == report.bad_draws == {"text": 1}


def test_what_could_not_be_read_once_is_not_read_again_but_for_missing_files(tmp_path):
    picture = tmp_path / "late.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    data = RawDataset("vision", Table([picture, tmp_path / "broken.png", np.zeros((4, 4), np.uint8)]))
    assert data[0]["image"].size == (4, 4) and data[1]["image"].size == (4, 4)
    for name in ("late.png", "broken.png"):
        decode_image(np.zeros((9, 9), np.uint8)).save(tmp_path / name)
    assert data[0]["image"].size == (9, 9) and data[1]["image"].size == (4, 4)


@pytest.mark.parametrize("size", [1, 3, 1000, 1001, 100_000])
def test_stand_ins_differ_and_reach_beyond_the_neighbours(size):
    found = list(candidates(size - 1, size))
    assert len(set(found)) == len(found) == min(size, 1000) and found[0] == size - 1
    assert set(found) <= set(range(size))
    if size > 1000:
        assert found[1] == 0 and max(found[1:]) - min(found) > 0.99 * size - 100


def test_samples_without_end_are_not_tried():
    class Empty(Rows):
        tries = 0

        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            self.tries += 1
            return ""

    empty = Empty()
    with pytest.raises(NoUsableSample, match="1000 of the 1000000"):
        RawDataset("text", Table(empty))[5]
    assert 1000 <= empty.tries < 1100


def test_what_fails_in_the_transform_is_replaced_under_its_own_id():
    def transform(record, seed):
        if record["text"] == "b" and seed == 1:
            raise KeyError("no such word")
        value = float("nan") if record["text"] == "c" else 1.0
        return {"input_values": torch.tensor([value]), "id": record["id"], "text": record["text"]}

    data = texts("a", "b", "c", "d")
    report = DataReport()
    items = [usable_item(data, index, transform, "text", 1, report) for index in range(4)]
    assert [item["text"] for item in items] == ["a", "d", "d", "d"] and [item["id"] for item in items] == [0, 1, 2, 3]
    reasons = {record.row: (record.reason, record.detail) for record in report.bad.values()}
    assert reasons == {
        1: ("transform failed", "KeyError: 'no such word'"),
        2: ("non-finite", "NaN or infinite values in input_values after the transform"),
    }
    assert usable_item(data, 1, transform, "text", seed=0)["text"] == "b", "another seed may succeed"


@pytest.mark.parametrize("values", [[np.inf, -np.inf], [1.0, np.nan], [np.inf, 1.0]])
def test_items_are_finite_though_their_sum_may_not_be(values):
    check_item({"input_values": torch.tensor([3e38, 3e38])})
    with pytest.raises(BadSample, match="pixel_values"):
        check_item({"input_ids": torch.arange(5), "pixel_values": torch.tensor(values)})


def test_a_transform_that_always_fails_is_an_error():
    def transform(record, seed):
        raise RuntimeError("out of order")

    with pytest.raises(NoUsableSample, match="out of order"):
        usable_item(texts("a", "b"), 0, transform, "text", seed=0)


def test_texts_without_tokens_are_left_out():
    def transform(record, seed):
        return {"input_ids": torch.arange(2 if record["text"] == "a" else 3), "id": record["id"]}

    report = DataReport()
    assert len(usable_item(texts("a", "b"), 0, transform, "text", 0, report)["input_ids"]) == 3
    assert [record.reason for record in report.bad.values()] == ["empty"]


def test_absurdly_long_recordings_are_refused_before_they_are_read(tmp_path, monkeypatch):
    write_recordings(tmp_path)
    monkeypatch.setattr("d2v_train.data.decoding.MAX_AUDIO_SAMPLES", 6399)
    assert len(decode_audio(tmp_path / "good0.flac")[0]) == 3200
    with pytest.raises(BadSample, match="too large"):
        decode_audio(tmp_path / "stereo.wav")


def test_rows_without_a_picture_in_a_table(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    reasons = write_picture_table(tmp_path / "pictures.parquet")
    data = open_dataset("vision", str(tmp_path / "pictures.parquet"))
    report = DataReport()
    assert [data.read(row, report)["image"].size for row in range(6)] == [(8, 8)] * 6
    assert {record.row: record.reason for record in report.bad.values()} == reasons


def test_names_that_are_no_text_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    data = RawDataset("vision", Table(MemoryRows([b"", np.zeros((4, 4), np.uint8)], [name, "good"])))
    report = DataReport()
    data.read(0, report)
    assert [record.name.encode() for record in report.bad.values()] == [b"caf\\udce9.png"]


def test_a_table_that_cannot_be_read_is_a_bad_sample():
    class Torn(list):
        def __getitem__(self, index):
            if index == 0:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    data = RawDataset("text", Table(Torn(["a", "b"])))
    report = DataReport()
    assert data.read(0, report)["text"] == "b"
    assert [record.detail for record in report.bad.values()] == ["OSError: the disk is gone"]


def test_tokens_that_another_run_kept_come_with_what_it_met(tmp_path):
    reasons = write_texts(tmp_path / "text")
    tokenizer = build_tokenizer(["a few words"], 300)
    reports = []
    for _ in range(2):
        documents = open_dataset("text", str(tmp_path / "text"), stream_block=8)
        report = DataReport()
        PackedTextDataset(documents, tokenizer, 8, tmp_path / "tokens", report)
        reports.append(report)
    assert {record.name: record.reason for record in reports[0].bad.values()} == reasons
    assert reports[0].bad == reports[1].bad and reports[0].draws == reports[1].draws == {"text": 43}
    assert reports[0].bad_draws == reports[1].bad_draws == {"text": 6}


def test_what_is_bad_for_a_new_tokenizer_is_not_said(tmp_path, caplog):
    options = load_options("tiny_text", [])
    documents = RawDataset("text", Table(["some words", b"\xe9", "more words"] * 4))
    prepare_tokenizer(options, documents, tmp_path / "tokenizer")
    assert documents.bad.total == 4 and "Bad text" not in caplog.text


class Failing:
    """Steps of which one cannot be made."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, step):
        if step == 1:
            raise self.error
        return []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [NoUsableSample, MissingDependencyError])
def test_an_error_for_the_user_comes_out_of_a_worker_as_it_was_raised(kind, workers):
    error = kind("Not\none; the last one: NoUsableSample: NaN.")
    error.sample = 7
    batches = load_steps(Failing(error), 0, 2, num_workers=workers)
    assert next(batches) == []
    with pytest.raises(kind) as caught:
        next(batches)
    assert caught.value.args == error.args and caught.value.sample == 7


def test_errors_of_the_program_keep_the_traceback_of_their_worker():
    with pytest.raises(KeyError, match="Original Traceback"):
        list(load_steps(Failing(KeyError("no such field")), 0, 2, num_workers=1))


def test_data_without_a_usable_sample_stops_the_run_with_one_sentence():
    with pytest.raises(TrainingStopped, match="^Not one: NoUsableSample: NaN\\. Check"), data_explained():
        raise NoUsableSample("Not\none: NoUsableSample: NaN.")
