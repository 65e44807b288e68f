"""Recordings made for tests, in which each letter is a tone of its own, and a tiny pretrained speech model."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from model_factory import tiny_config

from modeling_d2v import Data2VecForPreTraining


TONES = {"A": 300.0, "B": 700.0, "C": 1500.0, "D": 3100.0, " ": 0.0}
SECONDS = 0.12
"""Length of a letter."""


def spoken(text: str, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """The text as a waveform, with a little noise."""
    times = np.arange(round(SECONDS * rate)) / rate
    loudness = times < 0.8 * SECONDS  # a pause tells a letter from the same one again
    wave = np.concatenate([loudness * np.sin(2 * np.pi * TONES[letter] * times) for letter in text or " "])
    return (0.5 * wave + np.random.default_rng(seed).normal(0, 0.01, len(wave))).astype(np.float32)


def texts_of(count: int, seed: int = 0) -> list[str]:
    """Random texts of one or two words of one to four letters."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("ABCD"), size=rng.integers(1, 5))) for _ in range(2 * count)]
    return [" ".join(words[2 * i : 2 * i + 1 + i % 2]) for i in range(count)]


def write_recordings(folder: Path, texts: list[str], column: str = "text", **columns: list[Any]) -> Path:
    """A folder of recordings with metadata.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.wav" for number in range(len(texts))]
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        soundfile.write(folder / name, spoken(text, seed=number), 16_000)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", column, *columns])
        writer.writerows(zip(names, texts, *columns.values(), strict=True))
    return folder


def write_checkpoint(folder: Path, **overrides: Any) -> str:
    """A pretraining checkpoint with random weights."""
    torch.manual_seed(0)
    audio = {"conv_dim": [16] * 7, "alibi": None, "prenet_depth": 0, "mask_feature_length": 8}
    config = tiny_config("audio", audio_config=audio, **overrides)
    Data2VecForPreTraining(config).save_pretrained(folder)
    return str(folder)


def options(checkpoint: str, folder: Path, *more: Any, **values: Any) -> list[str]:
    """Arguments of a short run on a CPU, with nothing at random but the order of the data."""
    given = {
        "model_name_or_path": checkpoint,
        "output_dir": folder,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "apply_spec_augment": "false",
        "hidden_dropout": 0,
        "attention_dropout": 0,
        "activation_dropout": 0,
        "layerdrop": 0,
    } | values
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return [*words, "--disable_tqdm", "True", "--use_cpu", *map(str, more)]
