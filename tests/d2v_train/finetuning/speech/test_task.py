"""A selection leaves out recordings that cannot be used, with one reason each."""

import numpy as np
import pytest
import soundfile

from d2v_train.data.records import open_dataset
from d2v_train.finetuning.speech.task import Selection


def write_clip(path, seconds=0.1, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)), rate)
    return path


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
