"""The common part of the fine-tuning programs: options, loading, where a run goes on, the record and the card."""

import json
import logging
import os
import subprocess
import sys

import pytest
from finetuning_example import ROOT, make_trainer
from huggingface_hub import ModelCard

from d2v_train.data.bad_samples import BadSamples
from d2v_train.finetuning.run import prepare_program, report_bad_samples, run


def test_an_evaluation_leaves_the_card_of_the_training(tmp_path):
    run(make_trainer(tmp_path))
    card = (tmp_path / "README.md").read_text()
    run(make_trainer(tmp_path, do_train=False, do_eval=True))
    assert (tmp_path / "README.md").read_text() == card
    elsewhere = make_trainer(tmp_path / "elsewhere", do_train=False, do_eval=True)
    elsewhere.card = {"finetuned_from": "user/model", "dataset": "nyu-mll/glue"}
    run(elsewhere)
    text = (tmp_path / "elsewhere" / "README.md").read_text()
    assert "evaluated with the weights of `user/model` on nyu-mll/glue" in text and "| eval_loss |" in text
    assert "Training" not in text and "learning rate" not in text


def test_predictions_come_before_the_report_the_card_and_the_results(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.raw_datasets = {"test": Broken()}

    def predict():
        trainer.raw_datasets["test"].bad.mark(3, "truncated")
        return {"test_accuracy": 0.625, "test_loss": 1.5}

    trainer.args.max_bad_fraction = 0.5
    assert run(trainer, predict=predict)["test_accuracy"] == 0.625
    card = ModelCard.load(tmp_path / "README.md")
    assert "| test_accuracy | 0.625 |" in card.text
    assert [result.metric_type for result in card.data.eval_results] == ["test_accuracy"]
    assert json.loads((tmp_path / "bad_samples.json").read_text()) == {"test": {"truncated": ["file 3"]}}


def test_requests_to_the_hub_are_not_logged_one_by_one(tmp_path):
    prepare_program(make_trainer(tmp_path).args)
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in ("httpx", "httpx2"))


def test_processes_wait_for_all_gradients_unless_the_encoder_is_frozen(tmp_path):
    assert make_trainer(tmp_path).args.ddp_find_unused_parameters is False
    assert make_trainer(tmp_path, freeze_encoder_steps=2).args.ddp_find_unused_parameters is True


class Broken:
    """A data set of ten samples, some of them unusable."""

    def __init__(self, *unusable: int) -> None:
        self.bad = BadSamples(10, lambda index: f"file {index}")
        for index in unusable:
            self.bad.mark(index, "unreadable")

    def __len__(self) -> int:
        return 10


def test_broken_samples_are_named_and_too_many_stop_the_run(tmp_path, capsys):
    trainer = make_trainer(tmp_path, max_bad_fraction=0.2)
    trainer.raw_datasets = {"train": Broken(3, 7), "evaluation": Broken()}
    report_bad_samples(trainer)
    assert "file 3, file 7" in capsys.readouterr().out
    assert json.loads((tmp_path / "bad_samples.json").read_text()) == {"train": {"unreadable": ["file 3", "file 7"]}}
    trainer.raw_datasets["train"].bad.mark(5, "empty")
    with pytest.raises(ValueError, match="3 of 10"):
        report_bad_samples(trainer)
    # In time: at the end of the epoch, not of the run.
    late = make_trainer(tmp_path / "late", max_steps=60)
    late.raw_datasets = {"train": Broken(1)}
    with pytest.raises(ValueError, match="1 of 10"):
        late.train()
    assert late.state.global_step == 6


def example(folder, **options) -> list[str]:
    return [str(ROOT / "tests" / "finetuning_example.py"), str(folder), json.dumps(options)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 3])
def test_two_processes_train_like_one(tmp_path, frozen):
    # Into the second epoch, in which the data differs.
    options = {"freeze_encoder_steps": frozen, "do_eval": True, "max_steps": 9, "model": {"hidden_dropout": 0.0}}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    results = {}
    for name, batch, start in (("one", 4, []), ("two", 2, launcher)):
        command = [sys.executable, *start, *example(tmp_path / name, **options, per_device_train_batch_size=batch)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
        assert len(lines) == 1
        results[name] = json.loads(lines[0])
    assert results["two"]["losses"] == pytest.approx(results["one"]["losses"], rel=1e-5)
    assert results["two"]["eval_loss"] == pytest.approx(results["one"]["eval_loss"], rel=1e-5)
