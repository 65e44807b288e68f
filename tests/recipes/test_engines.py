"""Engines: one process, DistributedDataParallel and FSDP2 train alike, and a run goes on under another of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, GradientState
from engine_runs import SHARDING
from model_factory import inputs_for, tiny_config, version_config
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_d2v import Data2VecForPreTraining
from recipes.common.checkpointing import CheckpointFolder
from recipes.common.engine import leaves_out_parameters, sharding_plugin
from recipes.common.options import OptionError
from recipes.common.runlog import read_log
from recipes.pretrain import main


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs" / "accelerate"
ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29477"}

TINY = {
    "log_every": 1,
    "cpu": True,
    "vision": {"batch_size": 6, "transform": {"crop_scale": [0.5, 1.0]}},
    "audio": {"batch_size": 4, "transform": {"crop_seconds": [0.2, 0.4]}, "dataset": {"max_samples": 20}},
    "model": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout": 0.0,
        "mlp_dropout": 0.0,
        "attention_dropout": 0.0,
        "ema_decay": 0.9,
        "ema_end_decay": 0.99,
        "ema_anneal_end_step": 4,
        "vision_config": {"image_size": 8, "patch_size": 2, "num_channels": 1, "prenet_depth": 0, "num_masks": 2,
                          "decoder_layers": 1, "decoder_hidden_size": 32, "cls_loss_weight": 0.0},
        "audio_config": {"conv_dim": [16] * 7, "prenet_dropout": 0.0, "conv_pos_depth": 1, "conv_pos_width": 3,
                         "num_masks": 2, "decoder_layers": 1, "decoder_hidden_size": 32, "decoder_input_dropout": 0.0},
    },
}  # fmt: skip
VISION = ["audio=null", "model.audio_config=null"]
SCENARIOS = {
    "alternate": [],
    "mixed": ["schedule=mixed"],
    "version 1": ["schedule=mixed", "model.masked_tokens=replaced", "model.vision_config.num_masks=1",
                  "model.audio_config.num_masks=1"],
    "cls": [*VISION, "model.vision_config.num_extra_tokens=1", "model.vision_config.cls_loss_weight=0.1",
            "model.vision_config.cls_loss_rows=8"],
    "clipped": ["schedule=mixed", "optim.max_grad_norm=0.1", "gradient_checkpointing=true",
                "model.audio_config.ema_copied=[position_encoder]", "model.audio_config.alibi=learned",
                "model.vision_config.prenet_depth=1"],
}  # fmt: skip


def write_config(folder):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def run(config, folder, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return main([str(config), f"output_dir={folder}", *overrides])


def launch(folder, entries):
    """Runs entries (sharded, folder of the run, overrides) in the two processes of one launch; what they said."""
    config = write_config(folder)
    runs = [{"sharded": sharded, "refused": "{rank}" in str(where),
             "arguments": [str(config), f"output_dir={where}", *overrides]}
            for sharded, where, overrides in entries]  # fmt: skip
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, str(ROOT / "tests" / "engine_runs.py"), str(folder / "runs.json")],
                          cwd=folder, env=environment, capture_output=True, timeout=3000)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stderr.decode()


def losses(folder):
    return {(record["step"], name): value for record in read_log(folder / "log.jsonl")
            for name, value in record.items() if "/loss" in name or name == "grad_norm"}  # fmt: skip


def weights(folder):
    return load_file(folder / "final" / "model.safetensors")


def assert_same_weights(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# -- two processes: slow, all in one launch

TWENTY = ["max_steps=20", "checkpoint_every=0"]
EIGHT = ["max_steps=8", "checkpoint_every=4", "schedule=mixed", "optim.schedule_steps=8"]
HALF = [*EIGHT, "max_steps=4"]
DROPOUT = "model.hidden_dropout=0.1"
BF16 = ["max_steps=4", "checkpoint_every=0", "mixed_precision=bf16"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder of the runs of all tests under two processes, and what these said."""
    folder = tmp_path_factory.mktemp("engines")
    # As if each process had a disk of its own.
    (folder / "1").mkdir()
    said = launch(folder, [
        *((sharded, folder / f"{name} {sharded}", [*TWENTY, *overrides])
          for name, overrides in SCENARIOS.items() for sharded in (False, True)),
        (True, folder / "whole", [*EIGHT, DROPOUT]),
        (True, folder / "resumed", [*HALF, DROPOUT]),
        (True, folder / "resumed", [*EIGHT, DROPOUT]),
        (False, folder / "from replicas", HALF),
        (True, folder / "from replicas", EIGHT),
        (True, folder / "from shards", HALF),
        (False, folder / "from shards", EIGHT),
        (True, folder / "to one process", HALF),
        (False, folder / "bf16 False", BF16),
        (True, folder / "bf16 True", BF16),
        (False, folder / "{rank}", ["max_steps=1"]),
    ])  # fmt: skip
    return folder, said


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_process_two_processes_and_two_sharded_ones_train_alike(launched, name):
    folder, _ = launched
    run(write_config(folder), folder / f"{name} one", *TWENTY, "accumulate=2", *SCENARIOS[name])
    expected = losses(folder / f"{name} one")
    assert len(expected) >= 40
    for sharded in (False, True):
        assert losses(folder / f"{name} {sharded}") == pytest.approx(expected, rel=1e-5)
        exported = weights(folder / f"{name} {sharded}")
        for key, value in weights(folder / f"{name} one").items():
            torch.testing.assert_close(exported[key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.slow
def test_sharded_run_resumes_bit_for_bit_and_others_take_it_over(launched):
    """Dropout makes each process draw random numbers; across engines there is none."""
    folder, said = launched
    assert said.count("Resumed from") >= 3
    assert losses(folder / "whole") == losses(folder / "resumed")
    assert_same_weights(folder / "whole", folder / "resumed")
    config = write_config(folder)
    run(config, folder / "to one process", *EIGHT)
    run(config, folder / "one process", *EIGHT)
    for name in ("from replicas", "from shards", "to one process"):
        assert losses(folder / name) == pytest.approx(losses(folder / "one process"), rel=1e-5), name
    optimizers = [torch.load(CheckpointFolder(folder / name / "checkpoints").newest() / "optimizer.pt")["optimizer"]
                  for name in ("whole", "one process")]  # fmt: skip
    shapes = [{(number, key): value.shape for number, entry in optimizer["state"].items()
               for key, value in entry.items()} for optimizer in optimizers]  # fmt: skip
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_half_precision_is_the_same_under_every_engine_and_keeps_weights_whole(launched):
    folder, _ = launched
    run(write_config(folder), folder / "bf16 one", *BF16)
    for name in ("bf16 False", "bf16 True"):
        # Sums of half-precision products differ with the shape of a batch.
        assert losses(folder / name) == pytest.approx(losses(folder / "bf16 one"), rel=2e-2)
        assert {value.dtype for value in weights(folder / name).values()} == {torch.float32, torch.int64}
        state = torch.load(CheckpointFolder(folder / name / "checkpoints").newest() / "optimizer.pt")
        assert {value.dtype for entry in state["optimizer"]["state"].values() for value in entry.values()} == {
            torch.float32
        }
    assert losses(folder / "bf16 False") == pytest.approx(losses(folder / "bf16 True"), rel=1e-3)


@pytest.mark.slow
def test_folder_that_other_machines_do_not_see_is_refused(launched):
    _, said = launched
    assert said.count("Process 1 on ") == 2 and "Name a folder that all machines share." in said


# -- one process: fast


def test_sharded_process_trains_saves_and_exports_like_a_plain_one(tmp_path, monkeypatch):
    config = write_config(tmp_path)
    settings = [*VISION, "optim.max_grad_norm=0.5", "optim.schedule_steps=4", "checkpoint_every=0"]
    run(config, tmp_path / "plain", *settings, "max_steps=4")
    with monkeypatch.context() as patch:
        for name, value in {**SHARDING, **ONE_PROCESS}.items():
            patch.setenv(name, value)
        run(config, tmp_path / "sharded", *settings, "max_steps=2")
    model = AutoModel.from_pretrained(tmp_path / "sharded" / "final")
    assert model(pixel_values=torch.rand(1, 1, 8, 8)).pooler_output.shape == (1, 32)
    run(config, tmp_path / "sharded", *settings, "max_steps=4")
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)
    plain, sharded = weights(tmp_path / "plain"), weights(tmp_path / "sharded")
    assert plain.keys() == sharded.keys()
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing=true"),
    ],
)
def test_sharding_that_would_break_the_training_is_refused(monkeypatch, variable, value, message):
    for name, usual in {**SHARDING, variable: value}.items():
        monkeypatch.setenv(name, usual)
    with pytest.raises(OptionError, match=message):
        sharding_plugin()


def test_deepspeed_is_refused_with_what_to_use_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(OptionError, match="FSDP2 cuts the same things apart"):
        run(write_config(tmp_path), tmp_path / "run")


def test_half_precision_that_a_cpu_lacks_is_refused(tmp_path):
    with pytest.raises(OptionError, match="fp16 does not work on a CPU. Set mixed_precision=bf16"):
        run(write_config(tmp_path), tmp_path / "run", "mixed_precision=fp16")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_a_pass_gives_every_parameter_a_gradient_where_the_model_has_one_modality(version, modality):
    model = Data2VecForPreTraining(version_config(version, modality)).train()
    model(**inputs_for(modality)).loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == [] and not leaves_out_parameters(model, [modality])


def test_a_pass_leaves_out_the_parameters_of_other_modalities():
    model = Data2VecForPreTraining(tiny_config(("vision", "audio")))
    assert leaves_out_parameters(model, ["vision"]) and leaves_out_parameters(model, ["vision", "audio"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_accelerate_are_read_by_it(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2 and config.mixed_precision == "no"
