"""Reduction of a pretraining configuration to a size that a CPU runs in seconds, without other changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from d2v_train.data.builtin_series import CHANNELS
from d2v_train.models.build import build_config
from d2v_train.options.run import Options


WIDTH, HEADS, BLOCKS, SIDE, VOCABULARY = 64, 4, 4, 32, 400
SMALLER_DATA: dict[str, dict[str, Any]] = {
    "text": {"tokenizer": None, "tokenizer_documents": 50, "transform.max_length": 64},
    "vision": {},
    "audio": {"transform.crop_seconds": 1.0},
    "arrays": {"transform.crop_length": 128},
}
"""Changed options in the section of each modality."""
SMALLER_FRONT_END: dict[str, Callable[[Any], dict[str, Any]]] = {
    "text": lambda settings: {
        "vocab_size": min(settings.vocab_size, VOCABULARY),
        "max_position_embeddings": 66,
    },
    "vision": lambda settings: {"image_size": SIDE, "patch_size": 4} if settings.image_size > SIDE else {},
    "audio": lambda settings: {"conv_dim": [min(width, 32) for width in settings.conv_dim]},
    "arrays": lambda settings: {"num_dims": 1, "num_channels": CHANNELS, "group_size": min(settings.group_size, 8)},
}
"""Changed fields of the configuration of each modality."""


def reduced_overrides(options: Options, steps: int, output_dir: str) -> list[str]:
    """Return `key=value` overrides of a configuration for a short run on the built-in data.

    Reduced are: steps and warm-up; width, heads, blocks, prenet, decoder width; channels of the speech front end;
    image and patch size; vocabulary; data, crop, batch and micro-batch. Smaller numbers stay. Objective, masks, target
    norms, teacher, optimizer, curve of the learning rate and scaling of the batch are those of the configuration;
    precision is always bf16.

    Args:
        options: Options of the configuration, as read by `load_options`.
        steps: Steps of the run; with a `batch_scale` the nearest possible number.
        output_dir: Folder of the run.
    """
    scale = options.batch_scale
    changes: dict[str, Any] = {
        "output_dir": output_dir,
        "cpu": True,
        # A process has one engine: later runs in it use that of the first one.
        "mixed_precision": "bf16",
        "max_steps": max(1, round(steps * scale)),
        "logging.every": 1,
        "checkpoints.every": 0,
        "data.num_workers": 0,
        **{f"model.{name}": value for name, value in _smaller_model(options).items()},
    }
    if options.optim.warmup >= 1:
        changes["optim.warmup"] = max(1.0, round(0.25 * steps * scale))
    for name in options.modalities:
        section = getattr(options, name)
        changes |= {f"data.{name}": "builtin", f"{name}.split": "train", f"{name}.dataset": {"max_samples": 200}}
        if section.batch_tokens is not None:
            changes |= {f"{name}.batch_tokens": round(240 / scale), f"{name}.micro_batch_tokens": 120}
        else:
            changes |= {f"{name}.batch_size": round(4 / scale), f"{name}.micro_batch_size": 2}
        changes |= {f"{name}.{option}": value for option, value in SMALLER_DATA[name].items()}
    # JSON is YAML, in one line.
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _smaller_model(options: Options) -> dict[str, Any]:
    config = build_config(options)
    blocks = min(config.num_hidden_layers, BLOCKS)
    model: dict[str, Any] = {
        "hidden_size": min(config.hidden_size, WIDTH),
        "num_hidden_layers": blocks,
        "num_attention_heads": min(config.num_attention_heads, HEADS),
        "intermediate_size": min(config.intermediate_size, 2 * WIDTH),
    }
    if config.shared_decoder is not None:
        model["shared_decoder"] = {**config.shared_decoder, "decoder_hidden_size": WIDTH}
    for name in options.modalities:
        settings = config.modality_config(name)
        small = {
            "prenet_depth": min(settings.prenet_depth, 1),
            "decoder_hidden_size": min(settings.decoder_hidden_size, WIDTH),
            "average_top_k_layers": min(settings.average_top_k_layers or blocks, blocks),
        }
        if settings.alibi_num_heads is not None:
            small["alibi_num_heads"] = min(settings.alibi_num_heads, model["num_attention_heads"])
        small |= SMALLER_FRONT_END[name](settings)
        model |= {f"{name}_config.{field}": value for field, value in small.items()}
    return model
