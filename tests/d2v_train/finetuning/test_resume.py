"""A run goes on where it was cut off, and only that run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from finetuning_example import ROOT, make_trainer, weights
from safetensors.torch import load_file
from transformers import TrainerCallback

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.finetuning.resume import newest_checkpoint
from d2v_train.finetuning.run import run


SAVES = {"save_strategy": "steps", "save_steps": 2}


class StopAt(TrainerCallback):
    """Ends the run after an update, as a crash does, without the checkpoint that would be due."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            raise KeyboardInterrupt


def cut_off(trainer, step: int) -> None:
    trainer.add_callback(StopAt(step))
    with pytest.raises(KeyboardInterrupt):
        run(trainer)


def assert_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


def test_torn_checkpoints_are_passed_over(tmp_path, caplog):
    for step, content in ((2, "{}"), (10, "{}"), (12, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(content)
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert "checkpoint-14 is not whole" in caplog.text and "checkpoint-12 is not whole" in caplog.text
    assert newest_checkpoint(tmp_path / "checkpoint-14") is None


def test_a_run_that_is_cut_off_ends_with_the_same_weights(tmp_path):
    # Six updates an epoch: the second part begins in the middle of the second epoch, with dropout, and data that
    # differs from epoch to epoch.
    options = {**SAVES, "max_steps": 14, "weights_ema_decay": 0.5, "freeze_encoder_steps": 11, "layer_decay": 0.5}
    whole = make_trainer(tmp_path / "whole", **options)
    run(whole)
    cut_off(make_trainer(tmp_path / "parts", **options), step=9)
    (tmp_path / "parts" / "checkpoint-8" / "trainer_state.json").write_text('{"torn')
    cut_off(make_trainer(tmp_path / "parts", **options), step=13)  # from 6
    resumed = make_trainer(tmp_path / "parts", **options)
    run(resumed)  # from 12
    assert resumed.state.global_step == 14
    assert_same_weights(weights(resumed.model), weights(whole.model))
    assert_same_weights(
        load_file(tmp_path / "parts" / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors")
    )


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = make_trainer(tmp_path, **SAVES, do_eval=True, weights_ema_decay=0.5)
    results = run(first)
    again = make_trainer(tmp_path, **SAVES, do_eval=True, weights_ema_decay=0.5)
    again.train = lambda **kwargs: pytest.fail("The run was trained again.")
    repeated = run(again)
    assert_same_weights(weights(again.model), weights(first.model))
    assert repeated["train_loss"] == results["train_loss"] and repeated["eval_loss"] == results["eval_loss"]
    assert "| updates | 6 |" in (tmp_path / "README.md").read_text()

    longer = make_trainer(tmp_path, **SAVES, max_steps=8, weights_ema_decay=0.5)
    run(longer)
    assert longer.state.global_step == 8


def test_other_options_are_refused_where_a_run_goes_on(tmp_path):
    cut_off(make_trainer(tmp_path, **SAVES), step=3)
    with pytest.raises(ValueError, match="learning_rate.*0.01 -> 0.1.*4 -> 8"):
        run(make_trainer(tmp_path, **SAVES, learning_rate=0.1, per_device_train_batch_size=8))
    with pytest.raises(ValueError, match="--resume_from_checkpoint"):
        run(make_trainer(tmp_path, **SAVES, resume_from_checkpoint="never"))
    with pytest.raises(ValueError, match="whole"):
        run(make_trainer(tmp_path, **SAVES, resume_from_checkpoint=str(tmp_path / "elsewhere")))


def test_a_finished_run_with_other_options_is_not_passed_off_as_theirs(tmp_path):
    run(make_trainer(tmp_path))
    card = (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match="learning_rate.*0.01 -> 0.1"):
        run(make_trainer(tmp_path, learning_rate=0.1))
    assert (tmp_path / "README.md").read_text() == card


@pytest.mark.parametrize("finished", [True, False])
def test_another_start_and_other_data_are_another_run(tmp_path, finished):
    def trainer(start, rows):
        made = make_trainer(tmp_path, **SAVES)
        made.card = {"finetuned_from": start}
        made.train_dataset.raw = RawDataset("text", Table(["a", "b", "c"]), rows)
        return made

    if finished:
        run(trainer("user/model", [0, 1]))
    else:
        cut_off(trainer("user/model", [0, 1]), step=3)
    with pytest.raises(ValueError, match="user/model"):
        run(trainer(None, [0, 1]))
    with pytest.raises(ValueError, match="2 samples.*3 samples"):
        run(trainer("user/model", [0, 1, 2]))


def example(folder, **options) -> list[str]:
    return [str(ROOT / "tests" / "finetuning_example.py"), str(folder), json.dumps(options)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    """SIGKILL from outside, at no chosen moment; then the same command again."""
    options = {"max_steps": 60, "save_strategy": "steps", "save_steps": 7, "weights_ema_decay": 0.9}
    folder = tmp_path / "killed"
    command = [sys.executable, *example(folder, **options)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint-14" / "trainer_state.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    for path in (folder, tmp_path / "whole"):
        subprocess.run([sys.executable, *example(path, **options)], env=environment(), check=True, timeout=240)
    assert_same_weights(load_file(folder / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))
