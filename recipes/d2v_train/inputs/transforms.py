"""Transforms of records into the model's input: crops, flips, standardisation, tokens.

`transform(record, seed)` is a pure function: all randomness comes from a NumPy generator seeded by `seed`, so a
sample does not depend on the worker that prepares it. `transform.prepare(dataset)` returns the dataset to draw records
from, such as clips joined by speaker, or documents packed into blocks.

Legend: C channels, H height, W width, S waveform samples, T tokens.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from d2v_train.inputs.modalities import DATA_KINDS


def build_transform(
    modality: str, options: dict[str, Any] | None, model_config: Any, tokenizer: Any = None, train: bool = True
) -> Any:
    """Build the transform of a modality.

    Args:
        modality: A key of `DATA_KINDS`.
        options: Attributes of its transform; others follow from `model_config` (image size, channels, shortest
            waveform, longest text).
        model_config: `Data2VecConfig`.
        tokenizer: Tokenizer of text.
        train: Whether to augment and pack.

    Raises:
        ValueError: If an option is unknown or wrong, or text has no tokenizer.
    """
    kind = DATA_KINDS[modality].transform
    given = kind.of_model(model_config.modality_config(modality), tokenizer)
    valid = [field.name for field in dataclasses.fields(kind) if field.name not in ("train", "tokenizer")]
    for name in options or {}:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(valid)}."
            raise ValueError(f"The {modality} transform has no option {name!r}. {hint}")
    for name, value in (options or {}).items():
        _check_kind(modality, name, value)
    return kind(**(given | dict(options or {}) | {"train": train}))


def _check_kind(modality: str, name: str, value: Any) -> None:
    """Check that the value of an option is a bool or a number if the option takes one."""
    if name in ("flip", "concat_group", "pack", "standardised"):
        fits, kind = isinstance(value, bool), "true or false"
    elif name in ("image_size", "num_channels", "min_samples", "max_length"):
        fits, kind = isinstance(value, int) and not isinstance(value, bool) and value > 0, "a whole number above 0"
    elif name == "max_seconds":
        fits, kind = value is None or (isinstance(value, int | float) and value > 0), "a number above 0"
    elif name == "equaliser":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # 60 dB is far more than any microphone; samples that overflow would be counted as damaged recordings.
        fits, kind = number and 0 <= value <= 60, "a number of decibels from 0 to 60"
    elif name == "color_jitter":
        fits, kind = isinstance(value, int | float) and 0 <= value <= 1, "a number from 0 to 1"
    else:
        return
    if not fits:
        raise ValueError(f"The {modality} transform option {name} is {value!r}; it must be {kind}.")
