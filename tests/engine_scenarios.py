"""Small runs that must come out the same under every engine, and what starts and compares them."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from recipes.common.runlog import read_log
from recipes.common.training import Pretraining
from recipes.pretrain import main


ROOT = Path(__file__).resolve().parents[1]
# What a launcher sets to ask for an engine.
ENGINES = {
    "replicas": {},
    "shards": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
}

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

TWENTY = ["max_steps=20", "checkpoint_every=0"]
EIGHT = ["max_steps=8", "checkpoint_every=4", "schedule=mixed", "optim.schedule_steps=8"]
HALF = [*EIGHT, "max_steps=4"]
DROPOUT = "model.hidden_dropout=0.1"
BF16 = ["max_steps=4", "checkpoint_every=0", "mixed_precision=bf16"]


def write_config(folder):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def run(config, folder, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return main([str(config), f"output_dir={folder}", *overrides])


def launch(folder, entries, **environment):
    """Runs entries (engine, folder of the run, overrides) in the two processes of one launch; what they said.

    A `{rank}` in the folder says that the program must refuse to run, and `poison` in it that the gradient of one
    process is not finite in the third step.
    """
    config = write_config(folder)
    runs = [{"environment": ENGINES[engine], "refused": "{rank}" in str(where), "poisoned": "poison" in where.name,
             "arguments": [str(config), f"output_dir={where}", *overrides]}
            for engine, where, overrides in entries]  # fmt: skip
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run([*command, str(ROOT / "tests" / "engine_runs.py"), str(folder / "runs.json")],
                          cwd=folder, env=environment, capture_output=True, timeout=3000)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stderr.decode()


@contextlib.contextmanager
def poison(step=2, rank=1):
    """The gradient of one parameter is not finite in one step (counted from 0) of one process."""
    usual = Pretraining.train_step

    def train_step(run, micro_batches):
        if run.step != step or run.processes.rank != rank:
            return usual(run, micro_batches)
        first = next(parameter for parameter in run.inner.parameters() if parameter.requires_grad)
        hook = first.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
        moved = usual(run, micro_batches)
        hook.remove()
        return moved

    Pretraining.train_step = train_step
    try:
        yield
    finally:
        Pretraining.train_step = usual


def losses(folder):
    return {(record["step"], name): value for record in read_log(folder / "log.jsonl")
            for name, value in record.items() if "/loss" in name or name == "grad_norm"}  # fmt: skip


def weights(folder):
    return load_file(folder / "final" / "model.safetensors")


def assert_same_weights(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
