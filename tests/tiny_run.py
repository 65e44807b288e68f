"""Pretraining runs of a few steps: their configurations, and what starts, stops and compares them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from d2v_train.measuring.speed import SPEED_FACTS
from d2v_train.pretraining.training import Pretraining
from d2v_train.programs.pretrain import run_program
from d2v_train.support.jsonl import read_log


ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "recipes" / "pretrain.py"
DECODER = {"num_masks": 2, "decoder_layers": 1, "decoder_hidden_size": 32}
SECTIONS: dict[str, dict[str, Any]] = {
    "vision": {"batch_size": 4, "transform": {"crop_scale": [0.5, 1.0]}},
    "audio": {"batch_size": 3, "transform": {"crop_seconds": [0.2, 0.4]}, "dataset": {"max_samples": 20}},
    "text": {"batch_size": 2, "transform": {"max_length": 24}},
}
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "vision": {"image_size": 8, "patch_size": 2, "num_channels": 1, "prenet_depth": 0, **DECODER},
    "audio": {"conv_dim": [16] * 7, "prenet_dropout": 0.0, "conv_pos_depth": 1, "conv_pos_width": 3,
              "decoder_input_dropout": 0.0, **DECODER},
    "text": {"vocab_size": 300, "max_position_embeddings": 40, **DECODER},
}  # fmt: skip
# Draws from the process's random generator in every step. Decoder noise does not: it is a function of the sample.
DROPOUT = "model.hidden_dropout=0.1"


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tree with the changes, which reach into its sections."""
    inner = {name: merged(tree[name], value) for name, value in changes.items()
             if isinstance(value, dict) and isinstance(tree.get(name), dict)}  # fmt: skip
    return tree | changes | inner


def tiny(*modalities: str, **changes: Any) -> dict[str, Any]:
    """Options of a run that drops nothing, so that every engine and number of processes takes the same steps.

    Args:
        modalities: "vision", "audio" and "text" .
        changes: options, sections merged into those of the run.
    """
    tree = {
        "max_steps": 6,
        "logging": {"every": 1},
        "cpu": True,
        "data": dict.fromkeys(modalities, "builtin"),
        **{name: SECTIONS[name] for name in modalities},
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
            **{f"{name}_config": FRONT_ENDS[name] for name in modalities},
        },
    }
    return merged(tree, changes)


def write_config(folder: Path, tree: dict[str, Any]) -> Path:
    """Writes options to a file of a folder."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


# -- runs


def pretrain(config: Path | str, folder: Path, *overrides: str) -> dict[str, Any]:
    """A run in this process, as if it were the first one; its summary."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return run_program([str(config), f"output_dir={folder}", *overrides])


def environment() -> dict[str, str]:
    """Of a program in a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def pretrain_two(config: Path | str, folder: Path, *overrides: str) -> str:
    """A run in two processes that torchrun starts; what they said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(PROGRAM), str(config), f"output_dir={folder}", *overrides],
                          cwd=folder.parent, env=environment(), capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stderr.decode()


@contextlib.contextmanager
def before_step(step: int, action: Callable[[], None]) -> Iterator[None]:
    """Has something happen in the loop just before a step, counted from 0, is taken."""
    take_step = Pretraining.train_step

    def acting(self, batches):
        if self.step == step:
            action()
        return take_step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "train_step", acting)
        yield


@contextlib.contextmanager
def stopped_before(step: int) -> Iterator[None]:
    """Expects the run within to be stopped before a step, and draws random numbers, as another process would."""

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), before_step(step, stop):
        yield
    torch.rand(7)


# -- what they left


def log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a log without what differs from run to run."""
    return [{name: value for name, value in record.items() if name not in SPEED_FACTS}
            for record in read_log(folder / "log.jsonl")]  # fmt: skip


def losses(folder: Path) -> dict[tuple[int, str], float]:
    """Losses, norms and angles of the gradient by step and name."""
    return {(record["step"], name): value for record in read_log(folder / "log.jsonl")
            for name, value in record.items() if "/loss" in name or "grad" in name}  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the finished model."""
    return load_file(folder / "final" / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_same_run(one: Path, other: Path) -> None:
    """Bit by bit."""
    assert log(one) == log(other) != []
    assert_same_weights(one, other)
