"""Advice before the first step: settings with which a run cannot learn well on any data."""

from __future__ import annotations

import math
from collections.abc import Iterator

from d2v_train.health.rules import Finding, modality_key
from d2v_train.options.run import Options
from modeling_d2v import Data2VecConfig


HIGHEST_RATE = 0.02
"""Peak learning rate of AdamW above which no run is known to learn; published runs use 2e-4 to 2e-3."""


def advice_at_start(options: Options, config: Data2VecConfig) -> Iterator[Finding]:
    """Yield findings about the options of a run."""
    yield from _learning_rate(options)
    yield from _teacher(options, config)
    for name in options.modalities:
        yield from _batch(name, options, config)
    if options.audio is not None and isinstance(config, Data2VecConfig):
        yield from _position_convolutions(options, config)


def _learning_rate(options: Options) -> Iterator[Finding]:
    rate = options.optim.lr
    if rate > HIGHEST_RATE:
        yield Finding(
            "high_learning_rate",
            None,
            f"optim.lr is {rate:g}, and AdamW moves every weight by about as much in each step. Runs that learn use "
            "2e-4 to 2e-3; start with optim.lr=1e-3.",
        )


def _teacher(options: Options, config: Data2VecConfig) -> Iterator[Finding]:
    if config.ema_decay < 0.93:
        steps = math.log(2) / -math.log(config.ema_decay) if config.ema_decay > 0 else 0
        yield Finding(
            "teacher_too_fast",
            None,
            f"model.ema_decay is {config.ema_decay:g}: the teacher follows the student with a half-life of "
            f"{steps:.0f} steps, so that the targets move as fast as they are learned and may collapse. Use 0.99 "
            "or more.",
        )
    left = share_of_first_weights(config, options.max_steps)
    # Continued pretraining starts with a trained teacher; one that takes blocks alone has a new front end.
    is_continued = options.backbone is not None or (options.init_from is not None and options.init_parts == "all")
    if left > 0.5 and not is_continued:
        decay = config.ema_end_decay if config.ema_anneal_end_step < options.max_steps else config.ema_decay
        wanted = 1 - math.log(2) * 5 / options.max_steps
        yield Finding(
            "teacher_too_slow",
            None,
            f"With model.ema_decay={config.ema_decay:g} and max_steps={options.max_steps}, {100 * left:.0f} % of the "
            f"teacher will still be its random first weights at the end: at {decay:g} it takes "
            f"{math.log(2) / max(1 - decay, 1e-12):,.0f} steps to halve them. Lower model.ema_decay and "
            f"model.ema_end_decay to about {max(wanted, 0.9):.4g}, or train longer.",
        )


def share_of_first_weights(config: Data2VecConfig, steps: int) -> float:
    """Return the weight that a teacher's initial weights still have after `steps` updates."""
    annealed = min(steps, config.ema_anneal_end_step)
    # The decay is linear up to there, so that the mean of a few points is close to that of all.
    points = [config.ema_decay + (config.ema_end_decay - config.ema_decay) * (place + 0.5) / 100
              * annealed / max(config.ema_anneal_end_step, 1) for place in range(100)]  # fmt: skip
    if min(points) <= 0 and annealed or config.ema_end_decay <= 0:
        return 0.0
    logarithm = annealed * sum(map(math.log, points)) / 100 if annealed else 0.0
    return math.exp(logarithm + (steps - annealed) * math.log(config.ema_end_decay))


def _batch(name: str, options: Options, config: Data2VecConfig) -> Iterator[Finding]:
    section, masks = getattr(options, name), config.modality_config(name).num_masks
    batch = section.batch_size
    if batch is not None and batch * masks < 8:
        parts = f"with accumulate={options.accumulate} or more to fit into memory"
        if section.is_limited:
            parts = "its micro-batches stay the same size"
        yield Finding(
            "small_batch",
            name,
            f"A step of {name} sees {batch} samples under {masks} masks each. Their gradients are mostly "
            f"noise: raise {name}.batch_size ({parts}), or "
            f"{modality_key(options, name)}.num_masks, which costs less.",
        )


def _position_convolutions(options: Options, config: Data2VecConfig) -> Iterator[Finding]:
    seconds = options.audio.transform.get("crop_seconds")
    settings = config.audio_config
    if not settings.traits.reach or not isinstance(seconds, int | float):
        return
    if options.audio.transform.get("concat_group"):
        return
    frames = settings.num_frames(round(seconds * settings.sampling_rate))
    sees = settings.conv_pos_depth * (settings.conv_pos_kernel - 1) + 1
    if sees > frames:
        yield Finding(
            "positions_see_all",
            "audio",
            f"All windows of audio are {seconds:g} s long ({frames} frames), and the position convolutions see "
            f"{sees} frames: each token can detect its position in the window, and targets tend to become functions "
            "of it. Use windows of random length (audio.transform.crop_seconds=[1.0, 2.0]) from a stream of "
            "recordings (audio.transform.concat_group=true), or lower model.audio_config.conv_pos_width.",
        )
