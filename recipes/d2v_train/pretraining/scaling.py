"""Scaling of hyperparameters for a run with larger or smaller batches than configured.

The rule is that of Busbridge et al. 2023 (arXiv 2307.13813) for models with a moving average, with that of Malladi et
al. 2022 (arXiv 2205.10287) for Adam. With batches `scale` times as large, a step replaces `scale` steps:

- the teacher's decay d becomes d ** scale, the same decay over the same samples;
- the learning rate is multiplied by sqrt(scale), and so is weight decay, because it is applied once per step at that
  rate;
- 1 - beta of both moments of Adam is multiplied by scale, its eps divided by sqrt(scale);
- numbers of steps (total, warm-up, hold, end of the teacher's annealing) are divided by scale.

The rule holds as long as steps are small. Options that do not depend on the batch stay: masks, clipping, size of
micro-batches, intervals of logs and checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from d2v_train.models.build import build_config
from d2v_train.options.errors import OptionError
from d2v_train.options.files import flatten
from d2v_train.options.run import Options
from d2v_train.options.sections import ModalityOptions, OptimOptions
from d2v_train.support.text import table
from modeling_d2v import Data2VecConfig


TEACHER_FIELDS = ("ema_decay", "ema_end_decay", "ema_anneal_end_step")


def scale_batch(options: Options) -> Options:
    """Return the options of a run after `batch_scale` was applied, with a `batch_scale` of 1.

    Raises:
        OptionError: If the batch would not be a whole number, or the scale is too large for the moments of Adam.
    """
    scale = options.batch_scale
    if scale == 1:
        return options
    sections = {name: _scale_section(name, getattr(options, name), scale) for name in options.modalities}
    return dataclasses.replace(
        options,
        batch_scale=1.0,
        max_steps=_fewer(options.max_steps, scale),
        optim=_scale_optimizer(options.optim, scale),
        model=options.model | _scale_teacher(options, scale),
        **sections,
    )


def scaling_table(before: Options, after: Options) -> str:
    """Return the options that a scale changed as text, one per line with both values."""
    old, new = (flatten(dataclasses.asdict(options)) for options in (before, after))
    config = _config(before)
    old |= {f"model.{name}": getattr(config, name) for name in TEACHER_FIELDS}
    rows = [(name, old.get(name), value) for name, value in new.items()
            if value != old.get(name) and name != "batch_scale"]  # fmt: skip
    rows.insert(0, ("option", "configured", "scaled"))
    return f"batch_scale={before.batch_scale:g} changes:\n{table(rows)}"


def _scale_section(name: str, section: ModalityOptions, scale: float) -> ModalityOptions:
    changes = {}
    for field in ("batch_size", "batch_tokens"):
        value = getattr(section, field)
        if value is None:
            continue
        scaled = value * scale
        if round(scaled) < 1 or (field == "batch_size" and abs(scaled - round(scaled)) > 1e-6 * scaled):
            raise OptionError(
                f"batch_scale={scale:g} gives {scaled:g} for {name}.{field}={value}, which is not a whole number. "
                f"Choose a scale such as {max(1, round(scaled)) / value:g}."
            )
        changes[field] = round(scaled)
    return dataclasses.replace(section, **changes)


def _scale_optimizer(optim: OptimOptions, scale: float) -> OptimOptions:
    betas = [_rounded(1 - scale * (1 - beta)) for beta in optim.betas]
    if min(betas) < 0:
        least = min(optim.betas)
        raise OptionError(
            f"batch_scale={scale:g} is too large for optim.betas={optim.betas}: 1 - beta times the scale is above 1. "
            f"Scale by {1 / (1 - least):g} at most, or raise optim.betas."
        )
    root = math.sqrt(scale)
    steps = optim.schedule_steps
    return dataclasses.replace(
        optim,
        lr=_rounded(optim.lr * root),
        min_lr=_rounded(optim.min_lr * root),
        weight_decay=_rounded(optim.weight_decay * root),
        betas=betas,
        eps=_rounded(optim.eps / root),
        # Below 1 these are shares of the schedule.
        warmup=optim.warmup if optim.warmup < 1 else float(_fewer(optim.warmup, scale)),
        hold=optim.hold if optim.hold < 1 else float(_fewer(optim.hold, scale)),
        schedule_steps=None if steps is None else _fewer(steps, scale),
    )


def _scale_teacher(options: Options, scale: float) -> dict[str, Any]:
    config = _config(options)
    return {
        "ema_decay": _rounded(config.ema_decay**scale, 15),
        "ema_end_decay": _rounded(config.ema_end_decay**scale, 15),
        "ema_anneal_end_step": _fewer(config.ema_anneal_end_step, scale),
    }


def _config(options: Options) -> Data2VecConfig:
    """Build the configuration of the model for the fields of its teacher, before the tokenizer is known."""
    return build_config(options, vocab_size=(options.model.get("text_config") or {}).get("vocab_size"))


def _fewer(steps: float, scale: float) -> int:
    return max(1, round(steps / scale))


def _rounded(value: float, digits: int = 10) -> float:
    """Return the value rounded to significant digits, for readable options."""
    return float(f"{value:.{digits}g}")
