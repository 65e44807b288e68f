"""The pretraining program: export, exact resume after a kill, processes, guards."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from model_factory import SPECTROGRAM
from recordings import options as run_options
from recordings import write_recordings
from safetensors.torch import load_file
from tiny_run import (
    DROPOUT,
    PROGRAM,
    ROOT,
    assert_same_run,
    environment,
    log,
    losses,
    pretrain,
    pretrain_two,
    stopped_before,
    tiny,
    write_config,
)
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoTokenizer,
)

from d2v_train.health.guard import TrainingStopped
from d2v_train.models.build import build_config, build_model
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options
from d2v_train.probing.run import ProbeSettings, run_probe
from d2v_train.programs.finetune_audio_classification import run_program as finetune
from d2v_train.programs.pretrain import main
from d2v_train.runs.checkpoints import CheckpointFolder
from d2v_train.support.jsonl import read_log
from modeling_d2v import Data2VecForPreTraining


@pytest.fixture
def config(tmp_path):
    noise = {"mask_noise_std": 0.1}
    changes = {"vision": {"batch_size": 5}, "model": {"vision_config": noise, "audio_config": noise}}
    return write_config(tmp_path, tiny("vision", "audio", checkpoints={"every": 2}, **changes))


def test_joint_run_leaves_log_checkpoints_and_a_model_that_loads(config, tmp_path):
    folder = tmp_path / "run"
    summary = pretrain(config, folder)
    assert summary["steps"] == 6 and summary["samples"] == 3 * (5 + 3) and summary["skipped_steps"] == 0

    records = read_log(folder / "log.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {"vision" if "vision/loss" in record else "audio" for record in records[:2]} == {"vision", "audio"}
    for record in records:
        (modality,) = [name for name in ("vision", "audio") if f"{name}/loss" in record]
        assert record[f"{modality}/target_std"] > 0.05 and 0.3 < record[f"{modality}/masked_fraction"] < 0.95
        assert record["samples_per_s"] > 0 and 0 <= record["data_wait"] <= 1
    assert records[0]["ema_decay"] == pytest.approx(0.9 + 0.09 / 4) and records[-1]["ema_decay"] == 0.99
    assert [path.name for path in CheckpointFolder(folder / "checkpoints").whole()] == [
        "step_00000004",
        "step_00000006",
    ]

    final = folder / "final"
    model, info = AutoModelForPreTraining.from_pretrained(final, output_loading_info=True)
    assert isinstance(model, Data2VecForPreTraining) and int(model.ema_step) == 6
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoModel.from_pretrained(final)(pixel_values=torch.rand(1, 1, 8, 8)).last_hidden_state.shape == (1, 17, 32)
    assert AutoImageProcessor.from_pretrained(final).crop_size["height"] == 8
    assert AutoFeatureExtractor.from_pretrained(final).do_normalize
    checkpoint = folder / "checkpoints" / "step_00000006"
    assert (
        AutoImageProcessor.from_pretrained(checkpoint).to_dict() == AutoImageProcessor.from_pretrained(final).to_dict()
    )
    assert AutoFeatureExtractor.from_pretrained(checkpoint).do_normalize
    resumable = Data2VecForPreTraining.from_pretrained(checkpoint)
    assert torch.equal(
        resumable.teacher.encoder.blocks[0].mlp.fc1.weight, model.teacher.encoder.blocks[0].mlp.fc1.weight
    )


def test_text_run_keeps_its_tokenizer(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"document {number} of a few words" for number in range(99)))
    data = {"text": str(tmp_path / "text.txt")}
    settings = tiny("text", max_steps=2, checkpoints={"every": 2}, data=data)
    pretrain(write_config(tmp_path, settings), tmp_path / "run")
    final = tmp_path / "run" / "final"
    tokenizer, config = AutoTokenizer.from_pretrained(final), AutoConfig.from_pretrained(final)
    assert len(tokenizer) == config.text_config.vocab_size <= 300
    assert tokenizer.model_max_length == config.text_config.max_position_embeddings == 40
    assert tokenizer.mask_token_id == config.text_config.mask_token_id == len(tokenizer) - 1
    for place in ("tokenizer", "checkpoints/step_00000002"):
        kept = AutoTokenizer.from_pretrained(tmp_path / "run" / place)
        assert tokenizer("a document")["input_ids"] == kept("a document")["input_ids"]


def test_stopped_run_goes_on_bit_for_bit(config, tmp_path):
    settings = [DROPOUT, "logging.every=3", "checkpoints.every=2"]
    pretrain(config, tmp_path / "whole", *settings)
    with stopped_before(5):
        pretrain(config, tmp_path / "cut", *settings)
    pretrain(config, tmp_path / "cut", *settings)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_finished_run_can_be_started_again_and_extended(config, tmp_path):
    folder = tmp_path / "run"
    pretrain(config, folder, "max_steps=4")
    before = log(folder)
    again = pretrain(config, folder, "max_steps=4")
    assert log(folder) == before
    assert again["steps"] == 4 and again["last"] == read_log(folder / "log.jsonl")[-1]
    with pytest.raises(OptionError, match="optim.schedule_steps=4"):
        pretrain(config, folder, "max_steps=6")
    pretrain(config, folder, "max_steps=6", "optim.schedule_steps=4")
    assert log(folder)[:4] == before and [record["lr"] for record in log(folder)[4:]] == [0.0, 0.0]


def test_resume_under_other_options_is_refused(config, tmp_path):
    pretrain(config, tmp_path / "run", "max_steps=2")
    with pytest.raises(OptionError, match=r"optim\.lr.*0\.001 -> 0\.1"):
        pretrain(config, tmp_path / "run", "max_steps=2", "optim.lr=0.1")
    with pytest.raises(OptionError, match="resume"):
        pretrain(config, tmp_path / "run", "max_steps=2", "resume=never")


@pytest.mark.parametrize(
    "overrides, tolerance",
    [(["data.num_workers=2"], 0), (["accumulate=3"], 1e-5), (["gradient_checkpointing=true"], 0)],
)
def test_means_that_save_time_or_memory_do_not_change_the_run(config, tmp_path, overrides, tolerance):
    pretrain(config, tmp_path / "plain")
    pretrain(config, tmp_path / "other", *overrides)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=tolerance)


def test_mixed_schedule_takes_all_modalities_in_a_step(config, tmp_path):
    pretrain(config, tmp_path / "one", "schedule=mixed")
    pretrain(config, tmp_path / "many", "schedule=mixed", "accumulate=2")
    assert all({"vision/loss", "audio/loss"} <= record.keys() for record in log(tmp_path / "one"))
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_losses_fall(config, tmp_path):
    pretrain(config, tmp_path / "run", "max_steps=60", "optim.lr=1e-2", "audio=null", "model.audio_config=null")
    values = [record["vision/loss_regression"] for record in log(tmp_path / "run")]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def break_loss(monkeypatch, steps, value=float("nan")):
    forward = Data2VecForPreTraining.forward

    def broken(self, *args, step=None, **kwargs):
        output = forward(self, *args, step=step, **kwargs)
        if step in steps:
            output.loss = output.loss * value
        return output

    monkeypatch.setattr(Data2VecForPreTraining, "forward", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_step_without_a_finite_loss_is_skipped_before_the_weights_move(config, tmp_path, monkeypatch, value):
    break_loss(monkeypatch, {3}, value)
    summary = pretrain(config, tmp_path / "run", "checkpoints.every=1", "checkpoints.keep_last=9")
    assert summary["skipped_steps"] == 1 and summary["steps"] == 6
    weights = {step: load_file(tmp_path / "run" / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
               for step in (3, 4, 5)}  # fmt: skip
    assert all(torch.equal(weights[3][name], weights[4][name]) for name in weights[3])
    assert not all(torch.equal(weights[4][name], weights[5][name]) for name in weights[4])
    assert all(value.isfinite().all() for value in weights[5].values())


def test_run_stops_with_advice_when_the_loss_stays_bad(config, tmp_path, monkeypatch):
    break_loss(monkeypatch, {2, 3, 4, 5})
    with pytest.raises(TrainingStopped, match="3 steps.*optim.lr"):
        pretrain(config, tmp_path / "run", "health.max_bad_steps=3")


def test_collapse_stops_the_run_after_warmup(config, tmp_path):
    with pytest.raises(TrainingStopped, match="step 4.*target_std"):
        pretrain(
            config,
            tmp_path / "run",
            "health.min_target_std=9",
            "optim.warmup=3",
            "health.std_check_from=2",
            "health.patience=1",
        )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    reason = record["starts"][0]["end"]["reason"]
    assert "At step 4" in reason and f"init_from={tmp_path / 'run' / 'checkpoints' / 'step_00000002'}" in reason
    assert record["progress"]["step"] == 4 and record["progress"]["seconds"] > 0  # without a checkpoint


def test_init_from_takes_weights_and_teacher_of_a_run_but_not_its_step(config, tmp_path):
    pretrain(config, tmp_path / "run")
    for name in ("final", "checkpoints/step_00000006"):
        source = tmp_path / "run" / name
        options = load_options(config, [f"output_dir={tmp_path}", f"init_from={source}", "audio=null", "model=null"])
        start = build_model(options, build_config(options))
        saved = load_file(source / "model.safetensors")
        assert int(saved.pop("ema_step")) == 6 and int(start.ema_step) == 0
        state = start.state_dict()
        assert all(torch.equal(state[key], value) for key, value in saved.items())
        assert start.config.modalities == ["vision", "audio"] and not any(
            parameter.requires_grad for parameter in start.teacher.parameters()
        )


def test_init_from_an_encoder_starts_the_teacher_as_its_copy(config, tmp_path):
    options = load_options(config, [f"output_dir={tmp_path}"])
    encoder = build_model(options, build_config(options)).data2vec
    encoder.save_pretrained(tmp_path / "encoder")
    options = load_options(config, [f"output_dir={tmp_path}", f"init_from={tmp_path / 'encoder'}", "model=null"])
    start = build_model(options, build_config(options))
    weight = encoder.encoder.blocks[1].mlp.fc1.weight
    assert torch.equal(start.data2vec.encoder.blocks[1].mlp.fc1.weight, weight)
    assert torch.equal(start.teacher.encoder.blocks[1].mlp.fc1.weight, weight)


def test_spectrograms_go_from_waveforms_to_a_classifier(tmp_path):
    """Another front end of audio through every program: training, resuming, probing, fine-tuning."""
    small = {"num_masks": 2, "decoder_layers": 1, "decoder_hidden_size": 32, "prenet_dropout": 0.0}
    tree = tiny("audio", max_steps=3, checkpoints={"every": 1})
    tree["audio"]["transform"] = {"crop_seconds": [0.4, 0.8]}
    tree["model"]["audio_config"] = {**SPECTROGRAM, **small}
    config = write_config(tmp_path, tree)
    pretrain(config, tmp_path / "run")
    with stopped_before(2):
        pretrain(config, tmp_path / "cut")
    pretrain(config, tmp_path / "cut")
    assert_same_run(tmp_path / "run", tmp_path / "cut")

    final = tmp_path / "run" / "final"
    encoder, extractor = AutoModel.from_pretrained(final), AutoFeatureExtractor.from_pretrained(final)
    assert not extractor.do_normalize
    loud = extractor([[0.5] * 1520, [0.1] * 880], sampling_rate=16_000, padding=True, return_tensors="pt")
    assert encoder(**loud).last_hidden_state.shape == (2, 1 + 2 * 4, 32)

    quick = {"max_samples": 60, "seeds": (0,), "few": 2, "neighbours": 3}
    result = run_probe(ProbeSettings(model=str(final), modality="audio", data=None, **quick))
    assert result["pretrained"].keys() == result["random"].keys() and "mfcc" in result["simple"]

    write_recordings(tmp_path / "words", ["AAA", "BBB"] * 4, label=["a", "b"] * 4)
    finetune(run_options(final, tmp_path / "classes", "--do_train", "--do_eval", max_steps=3,
                         dataset_name=tmp_path / "words", per_device_train_batch_size=4))  # fmt: skip
    classifier = AutoModelForAudioClassification.from_pretrained(tmp_path / "classes")
    assert classifier.config.audio_config.front_end == "spectrogram" and classifier.config.num_labels == 2
    kept = classifier.data2vec.modality_encoders["audio"].local_encoder.projection.weight
    assert torch.equal(kept, encoder.modality_encoders["audio"].local_encoder.projection.weight)
    assert not AutoFeatureExtractor.from_pretrained(tmp_path / "classes").do_normalize


# -- other processes


def command(config, folder, *overrides):
    return [str(PROGRAM), str(config), f"output_dir={folder}", *overrides]


def test_killed_run_goes_on_bit_for_bit(config, tmp_path):
    """SIGKILL between two checkpoints, from outside, at no chosen moment; then the same command again."""
    settings = [DROPOUT, "max_steps=60", "checkpoints.every=7"]
    folder = tmp_path / "killed"
    with subprocess.Popen([sys.executable, *command(config, folder, *settings)], cwd=tmp_path, env=environment(),
                          stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:  # fmt: skip
        deadline = time.monotonic() + 600
        while not (folder / "log.jsonl").exists() or len(read_log(folder / "log.jsonl")) < 10:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed_at = len(read_log(folder / "log.jsonl"))
    assert 10 <= killed_at < 60 and CheckpointFolder(folder / "checkpoints").newest() is not None

    pretrain(config, folder, *settings)
    pretrain(config, tmp_path / "whole", *settings)
    assert_same_run(tmp_path / "whole", folder)


def test_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(config, tmp_path):
    """SIGKILL after the weights of the second checkpoint are written and before it has its name."""
    folder = tmp_path / "killed"
    program = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r})\n"
        "import clone\n"
        "from d2v_train.programs.pretrain import run_program\n"
        "rename = os.rename\n"
        "def killing(source, target):\n"
        "    if str(target).endswith('step_00000004'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(source, target)\n"
        "os.rename = killing\n"
        "run_program(sys.argv[1:])\n"
    )
    arguments = command(config, folder, DROPOUT)[1:]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=tmp_path, env=environment(),
                          capture_output=True)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert CheckpointFolder(folder / "checkpoints").newest().name == "step_00000002"
    assert (folder / "checkpoints" / ".step_00000004.draft" / "model.safetensors").exists()

    pretrain(config, folder, DROPOUT)
    pretrain(config, tmp_path / "whole", DROPOUT)
    assert_same_run(tmp_path / "whole", folder)
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["alternate", "mixed"])
def test_two_processes_train_like_one(config, tmp_path, schedule):
    settings = [f"schedule={schedule}", "max_steps=5", "accumulate=1"]
    pretrain(config, tmp_path / "one", *settings)
    said = pretrain_two(config, tmp_path / "two", *settings)
    assert "broadcast_buffers" not in said
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = log(tmp_path / "one")[-1], log(tmp_path / "two")[-1]
    for name in one:
        assert name.endswith(("_std", "explained_by_prediction", "explained_by_position")) or one[
            name
        ] == pytest.approx(two[name], rel=1e-5), name
    newest = CheckpointFolder(tmp_path / "two" / "checkpoints").newest()
    assert json.loads((newest / "progress.json").read_text())["processes"] == 2
    assert (newest / "process_1.pt").exists()


def test_program_explains_a_wrong_option_in_one_line(config, tmp_path):
    assert main([str(config), f"output_dir={tmp_path}", "vision.batch=3"]) == (
        "OptionError: Unknown option 'vision.batch'. The nearest valid key is 'vision.batch_size'."
    )
