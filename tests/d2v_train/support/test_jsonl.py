"""The log of a run."""

import json

import pytest

from d2v_train.support.jsonl import RunLog, read_log


def opened(path, step=0):
    log = RunLog(path)
    log.open(step)
    return log


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


@pytest.mark.parametrize("kept, lost", [(3, False), (2, True), (0, True), (None, True)])
def test_lines_that_a_checkpoint_knew_of_are_missed(tmp_path, caplog, kept, lost):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    assert log.state_dict() == {"step": 0}
    for step in (1, 2, 3):
        log.write({"step": step})
    if kept is None:
        path.unlink()
    else:
        path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, kept + 1)))
    kept = kept or 0
    resumed = RunLog(path)
    resumed.load_state_dict(log.state_dict())
    resumed.open(3)
    assert (f"ends at step {kept}, the checkpoint knew of step 3" in caplog.text) == lost
    assert ({"step": 3, "lost_since": kept} in read_log(path)) == lost
