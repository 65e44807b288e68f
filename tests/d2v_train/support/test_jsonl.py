"""The log of a run."""

import json

import pytest
import torch

from d2v_train.measuring.step_meter import MetricsWindow
from d2v_train.support.jsonl import RunLog, read_log


def opened(path, step=0):
    log = RunLog(path)
    log.open(step)
    return log


def test_window_averages_by_weight_and_survives_a_checkpoint():
    window = MetricsWindow()
    window.add("loss", torch.tensor(1.0))
    window.add("loss", 0.5, 0)  # a second micro-batch of the same step
    copy = MetricsWindow()
    copy.load_state_dict(json.loads(json.dumps(window.state_dict())))
    for each in (window, copy):
        each.add("loss", 2.5)
        assert each.means() == {"loss": 2.0}


def test_window_sums_over_processes():
    window = MetricsWindow()
    window.add("loss", 3.0)
    assert window.means(lambda sums: sums + torch.tensor([[1.0], [1.0]])) == {"loss": 2.0}


def test_what_was_counted_nowhere_is_left_out():
    window = MetricsWindow()
    for value in ("nan", 0.25, 0.75):
        window.add_if_known("share", torch.tensor(float(value)))
    window.add_if_known("unknown", torch.tensor(float("nan")))
    copy = MetricsWindow()
    copy.load_state_dict(json.loads(json.dumps(window.state_dict())))
    assert window.means() == copy.means() == {"share": 0.5}
    # Another process knows the second value, too, and nothing of the first.
    other = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert window.means(lambda sums: sums + other) == {"share": 0.5, "unknown": 3.0}


def test_broken_lines_in_the_middle_lose_only_themselves(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo\n\xff\xfe\n[3]\n7\n{"no": "step"}\n\n{"step": 5}\n{"step": "6"}\n')
    assert read_log(path) == [{"step": 1}, {"step": 5}]
    assert opened(path, 9).last == {"step": 5} and opened(path, 4).last == {"step": 1}
    assert opened(tmp_path / "none.jsonl").last == opened(None).last == {}


def test_log_drops_what_lies_after_the_resumed_step_and_a_broken_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    for step in (1, 2, 3):
        log.write({"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    opened(path, 2).write({"step": 3, "again": True})
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize("kept, lost", [(3, False), (2, True), (0, True)])
def test_lines_that_a_checkpoint_knew_of_are_missed(tmp_path, caplog, kept, lost):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    assert log.state_dict() == {"step": 0}
    for step in (1, 2, 3):
        log.write({"step": step})
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, kept + 1)))
    resumed = RunLog(path)
    resumed.load_state_dict(log.state_dict())
    resumed.open(3)
    assert (f"ends at step {kept}, the checkpoint knew of step 3" in caplog.text) == lost
