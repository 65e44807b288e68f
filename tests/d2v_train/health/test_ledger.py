"""Broken files in a run: each is named once, whoever met it and however often the run was interrupted."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from broken_data import write_pictures, write_recordings, write_texts
from tiny_run import before_step, pretrain, pretrain_two, stopped_before, tiny, write_config

from d2v_train.data.decoding import decode_image
from d2v_train.data.report import BadRecord, DataReport, NoUsableSample
from d2v_train.health.guard import TrainingStopped
from d2v_train.health.ledger import BadSampleLedger, data_explained
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
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


def test_data_without_a_usable_sample_stops_the_run_with_one_sentence():
    with pytest.raises(TrainingStopped, match="^Not one: NoUsableSample: NaN\\. Check"), data_explained():
        raise NoUsableSample("Not\none: NoUsableSample: NaN.")


class Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_run_with_a_sentence():
    batches = iter(torch.utils.data.DataLoader(Killed(), num_workers=1))
    with pytest.raises(TrainingStopped, match="worker process that reads data has ended.*data.num_workers"):
        with data_explained():
            next(batches)
    with pytest.raises(RuntimeError, match="something else"), data_explained():
        raise RuntimeError("something else")
