"""A run goes on where it was cut off, and only that run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from finetuning_example import ROOT, SAVES, assert_same_weights, cut_off, make_trainer, weights
from safetensors.torch import load_file

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.finetuning.resume import newest_checkpoint
from d2v_train.finetuning.run import run
from d2v_train.support.manifest import write_manifest


def whole_checkpoint(folder, step):
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(100))
    write_manifest(folder, step)
    return folder


def test_damaged_checkpoints_are_passed_over(tmp_path, caplog):
    for step in (2, 4, 6, 8, 10, 12):
        whole_checkpoint(tmp_path / f"checkpoint-{step}", step)
    (tmp_path / "checkpoint-12" / "manifest.json").unlink()
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(bytes(99) + b"x")
    (tmp_path / "checkpoint-6" / "model.safetensors").unlink()
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    for skipped in (
        "checkpoint-14 is skipped: it has no readable manifest.json",
        "checkpoint-12 is skipped: it has no readable manifest.json",
        "checkpoint-10 is skipped: trainer_state.json has 11 bytes instead of 2",
        "checkpoint-8 is skipped: model.safetensors has other content than was written",
        "checkpoint-6 is skipped: model.safetensors is missing",
    ):
        assert skipped in caplog.text
    assert newest_checkpoint(tmp_path / "checkpoint-14") is None


@pytest.mark.parametrize("name", ["all_results.json", "train_results.json"])
@pytest.mark.parametrize("content", ["", '{"train_l', "[]", None])
def test_unreadable_results_are_named_and_made_again(tmp_path, caplog, name, content):
    results = run(make_trainer(tmp_path, do_eval=True))
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    repeated = run(make_trainer(tmp_path, do_eval=True))
    assert repeated["train_loss"] == results["train_loss"] and repeated["eval_loss"] == results["eval_loss"]
    assert json.loads(path.read_text())["train_loss"] == results["train_loss"]
    assert (f"{path} " in caplog.text) == (content is not None)


def test_a_damaged_finished_model_is_made_again_from_the_last_checkpoint(tmp_path, caplog):
    first = make_trainer(tmp_path, **SAVES)
    run(first)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = make_trainer(tmp_path, **SAVES)
    run(again)
    assert "is damaged: model.safetensors has other content than was written" in caplog.text
    assert path.read_bytes() == whole and again.state.global_step == 6


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
    with pytest.raises(ValueError, match="complete"):
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
