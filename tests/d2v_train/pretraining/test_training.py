"""The loop of pretraining."""

import os
import signal

import pytest
from tiny_run import pretrain, tiny, write_config

from d2v_train.options.errors import OptionError
from d2v_train.pretraining.training import Pretraining
from d2v_train.runs.checkpoints import CheckpointFolder
from d2v_train.runs.interruptions import RunInterrupted


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, tiny("audio", max_steps=1))


def test_error_in_a_step_keeps_its_type(config, tmp_path, monkeypatch):
    def broken(self, batches):
        raise ValueError("an error of the program")

    monkeypatch.setattr(Pretraining, "train_step", broken)
    with pytest.raises(ValueError, match="an error of the program") as error:
        pretrain(config, tmp_path / "run")
    assert not isinstance(error.value, OptionError)


@pytest.fixture
def saved_often(tmp_path):
    return write_config(
        tmp_path, tiny("vision", logging={"every": 4}, checkpoints={"every": 0}, model={"hidden_dropout": 0.1})
    )


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_signal_in_the_last_checkpoint_is_not_lost(saved_often, tmp_path, monkeypatch):
    save = Pretraining.save
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "save", lambda run: (save(run), send(signal.SIGTERM)))
        with pytest.raises(RunInterrupted, match="step_00000006"):
            pretrain(saved_often, tmp_path / "run")
    assert pretrain(saved_often, tmp_path / "run")["steps"] == 6 and (tmp_path / "run" / "final").exists()


def test_checkpoints_by_the_clock_and_for_ever(saved_often, tmp_path):
    pretrain(saved_often, tmp_path / "clock", "checkpoints.minutes=1e-9", "checkpoints.keep_last=9")
    assert len(CheckpointFolder(tmp_path / "clock" / "checkpoints").whole()) == 6
    pretrain(saved_often, tmp_path / "clock", "checkpoints.keep_last=1")
    assert len(CheckpointFolder(tmp_path / "clock" / "checkpoints").whole()) == 1
    pretrain(
        saved_often, tmp_path / "kept", "checkpoints.keep_every=2", "checkpoints.keep_last=1", "checkpoints.every=3"
    )
    names = [path.name for path in CheckpointFolder(tmp_path / "kept" / "checkpoints").whole()]
    assert names == ["step_00000002", "step_00000004", "step_00000006"]
