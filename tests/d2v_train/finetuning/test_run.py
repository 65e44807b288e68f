"""The common part of the fine-tuning programs: options, loading, where a run goes on, the record and the card."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from finetuning_example import ROOT, make_trainer, weights
from huggingface_hub import ModelCard
from model_factory import tiny_config
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback

from d2v_train.data.bad_samples import BadSamples
from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments
from d2v_train.finetuning.command_line import check_folder, launch, parse_arguments, with_options_of_file
from d2v_train.finetuning.models import load_config, load_model
from d2v_train.finetuning.resume import newest_checkpoint
from d2v_train.finetuning.run import prepare_program, report_bad_samples, run
from modeling_d2v import Data2VecForPreTraining


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


def test_options_come_from_a_file_and_the_command_line_wins(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        f"model_name_or_path: some/model\noutput_dir: {tmp_path}\nlearning_rate: 5e-1\nlayer_decay: 0.7\n"
        "do_train: true\ndo_eval: false\nlr_scheduler_kwargs: {power: 2.0}\nlabel_names: [labels, more]\n"
    )
    model_args, args = parse_arguments(
        ModelArguments, FinetuningArguments, argv=[str(path), "--learning_rate", "0.25"]
    )
    assert model_args.model_name_or_path == "some/model"
    assert (args.learning_rate, args.layer_decay, args.do_train, args.do_eval) == (0.25, 0.7, True, False)
    assert (args.lr_scheduler_kwargs, args.label_names) == ({"power": 2.0}, ["labels", "more"])


@pytest.mark.parametrize("unknown", ["--learning_rat", "--layer-decya"])
def test_an_unknown_option_is_one_line_that_names_the_nearest(tmp_path, capsys, unknown):
    # Named even where a misspelt option leaves another one missing.
    with pytest.raises(SystemExit) as stop:
        parse_arguments(FinetuningArguments, argv=[unknown, "1"])
    (message,) = capsys.readouterr().err.strip().splitlines()
    nearest = {"--learning_rat": "--learning_rate", "--layer-decya": "--layer_decay"}[unknown]
    assert stop.value.code == 2 and unknown in message
    assert nearest in message or nearest.replace("_", "-") in message


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tri_stage": "0.1,0.4"}, "shares"),
        ({"tri_stage": "0.5,0.5,0.5"}, "sum to 1"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"weights_ema_decay": 1.0}, "weights_ema_decay"),
        ({"output_dir": None}, "output_dir"),
        ({"early_stopping_patience": 2}, "--eval_strategy.*--save_strategy"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FinetuningArguments(**{"output_dir": str(tmp_path), **options})


def test_a_file_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--mask_time_prob" in with_options_of_file(["ctc_10m.yaml", "--seed", "1"])
    (tmp_path / "ctc_10m.yaml").write_text("seed: 2")
    assert with_options_of_file(["ctc_10m.yaml", "--seed", "1"]) == ["--seed", "2", "--seed", "1"]


def test_a_file_without_options_is_named(tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text("- learning_rate\n")
    torn = tmp_path / "torn.yaml"
    torn.write_text("seeds: [1\nlearning_rate")
    for argument in (path, torn, tmp_path / "missing.yaml"):
        with pytest.raises(SystemExit):
            parse_arguments(FinetuningArguments, argv=[str(argument)])
        assert argument.name in capsys.readouterr().err


def test_a_model_must_be_named():
    with pytest.raises(ValueError, match="--model_name_or_path"):
        ModelArguments()
    with pytest.raises(ValueError, match="--from_scratch"):
        ModelArguments(config_name="text-base")
    assert ModelArguments(config_name="text-base", from_scratch=True).hub_options["revision"] == "main"


def test_a_preset_is_a_configuration():
    config = load_config(ModelArguments(config_name="text-base", from_scratch=True), num_labels=3)
    assert (config.num_labels, config.hidden_size, config.modalities) == (3, 768, ["text"])


def test_overrides_reach_sub_configurations(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    model_args = ModelArguments(str(tmp_path))
    config = load_config(model_args, drop_path_rate=0.3, num_labels=7, text_config={"embedding_dropout": 0.2})
    assert (config.drop_path_rate, config.num_labels, config.text_config.embedding_dropout) == (0.3, 7, 0.2)
    assert load_config(model_args, drop_path_rate=None).drop_path_rate == 0.0
    with pytest.raises(ValueError, match="'embeding_dropout'"):
        load_config(model_args, text_config={"embeding_dropout": 0.2})
    with pytest.raises(ValueError, match="drop_path_rate"):
        load_config(model_args, drop_path_rate=3.0)
    with pytest.raises(ValueError, match="embedding_dropout"):
        load_config(model_args, text_config={"embedding_dropout": 3.0})
    with pytest.raises(ValueError, match="runs/nowhere.*config.json"):
        load_config(ModelArguments("runs/nowhere"))


def test_from_scratch_ignores_the_weights(tmp_path):
    pretrained = Data2VecForPreTraining(tiny_config("text"))
    pretrained.save_pretrained(tmp_path)
    name = "encoder.blocks.0.mlp.fc1.weight"
    wanted = pretrained.state_dict()[f"data2vec.{name}"]
    for from_scratch in (False, True):
        model_args = ModelArguments(str(tmp_path), from_scratch=from_scratch)
        model = load_model(AutoModelForSequenceClassification, model_args, load_config(model_args))
        assert torch.equal(model.data2vec.state_dict()[name], wanted) != from_scratch


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


def test_a_folder_that_cannot_be_one_is_found_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="file is a file"):
            check_folder(folder)
    check_folder(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(ValueError, match="read-only"):
        check_folder(tmp_path / "new" / "run")


def test_requests_to_the_hub_are_not_logged_one_by_one(tmp_path):
    prepare_program(make_trainer(tmp_path).args)
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in ("httpx", "httpx2"))


def test_processes_wait_for_all_gradients_unless_the_encoder_is_frozen(tmp_path):
    assert make_trainer(tmp_path).args.ddp_find_unused_parameters is False
    assert make_trainer(tmp_path, freeze_encoder_steps=2).args.ddp_find_unused_parameters is True


def test_the_card_tells_results_data_and_settings(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, do_eval=True, layer_decay=0.65)
    trainer.card = {"finetuned_from": "user/model", "tasks": "text-classification", "dataset": "nyu-mll/glue"}
    results = run(trainer)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "user/model" and card.data.pipeline_tag == "text-classification"
    assert "trained from `user/model` on nyu-mll/glue" in card.text
    assert f"| eval_loss | {results['eval_loss']:.4g} |" in card.text and "runtime" not in card.text
    for line in (
        "| schedule | linear |",
        "| updates | 2 |",
        "| batch size | 4 |",
        "| layer decay | 0.65 |",
        "| learning rate | 0.01 |",
    ):
        assert line in card.text
    stored = json.loads((tmp_path / "all_results.json").read_text())
    assert {stored[name] == results[name] for name in ("train_loss", "eval_loss")} == {True}

    trainer.card |= {"finetuned_from": str(tmp_path), "dataset": str(tmp_path)}
    trainer.create_model_card()
    local = ModelCard.load(tmp_path / "README.md")
    assert local.data.base_model is None and str(tmp_path) not in local.text and f"`{tmp_path.name}`" in local.text


class Hub:
    """Stands in for the client of the Hub."""

    def __init__(self) -> None:
        self.uploads = []

    def create_repo(self, name, **kwargs):
        return SimpleNamespace(repo_id=f"user/{name}")

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        card = ModelCard.load(Path(folder_path) / "README.md")
        self.uploads.append((repo_id, sorted(os.listdir(folder_path)), card.text))


def test_the_finished_model_is_uploaded_once_with_its_card(tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    trainer = make_trainer(tmp_path / "run", max_steps=2, do_eval=True, push_to_hub=True, hub_model_id="tiny")
    trainer.card = {"tasks": "text-classification"}
    results = run(trainer)
    ((repository, files, card),) = hub.uploads
    assert repository == "user/tiny" and {"model.safetensors", "config.json", "heads_text.py"} <= set(files)
    assert f"| eval_loss | {results['eval_loss']:.4g} |" in card and "# tiny" in card
    assert 'pipeline("text-classification", "user/tiny")' in card


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


def test_results_are_one_line_and_mistakes_one_sentence(capsys):
    assert launch(lambda argv: {"eval_loss": float(argv[0])}, ["1.0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"eval_loss": 1.0}

    def fails(argv):
        raise ValueError("What is wrong.")

    assert launch(fails, []) == "ValueError: What is wrong."
    with pytest.raises(ValueError, match="^What is wrong.$"):
        launch(fails, ["--log_level", "debug"])


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
