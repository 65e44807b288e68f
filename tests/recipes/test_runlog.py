"""The log of a run."""

import json

import torch

from recipes.common.runlog import MetricsWindow, RunLog, read_log


def test_window_averages_by_weight_and_survives_a_checkpoint():
    window = MetricsWindow()
    window.add("loss", torch.tensor(1.0))
    window.add("loss", 0.5, 0)  # a second micro-batch of the same step
    copy = MetricsWindow()
    copy.restore(json.loads(json.dumps(window.state())))
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
    copy.restore(json.loads(json.dumps(window.state())))
    assert window.means() == copy.means() == {"share": 0.5}
    # Another process knows the second value, too, and nothing of the first.
    other = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert window.means(lambda sums: sums + other) == {"share": 0.5, "unknown": 3.0}


def test_broken_lines_in_the_middle_lose_only_themselves(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo\n\xff\xfe\n[3]\n7\n{"no": "step"}\n\n{"step": 5}\n{"step": "6"}\n')
    assert read_log(path) == [{"step": 1}, {"step": 5}]
    assert RunLog(path, step=9).last == {"step": 5} and RunLog(path, step=4).last == {"step": 1}
    assert RunLog(tmp_path / "none.jsonl").last == RunLog(None).last == {}


def test_log_drops_what_lies_after_the_resumed_step_and_a_broken_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    for step in (1, 2, 3):
        log.write({"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    RunLog(path, step=2).write({"step": 3, "again": True})
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
