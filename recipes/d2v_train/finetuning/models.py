"""Configuration and model of a fine-tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    PreTrainedModel,
)

from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.plain_models import PlainConfig, load_plain_model
from modeling_d2v import Data2VecConfig


def load_config(model_args: ModelArguments, **overrides: Any) -> Data2VecConfig | PlainConfig:
    """Load the configuration to fine-tune with.

    Args:
        model_args: Options that name the checkpoint or configuration.
        overrides: Fields to override; a dictionary overrides fields of that sub-configuration. `None` keeps a field.

    Returns:
        The configuration, or that of an encoder of transformers as `PlainConfig`.

    Raises:
        ValueError: If the model or a field does not exist.
    """
    name = model_args.config_name or model_args.model_name_or_path
    if name in Data2VecConfig.preset_names() and not Path(name).exists():
        config = Data2VecConfig.preset(name)
    else:
        try:
            config = AutoConfig.from_pretrained(name, **model_args.hub_options)
        except OSError as error:
            raise ValueError(
                f"{name} is not a folder with a config.json, not a preset "
                f"({', '.join(Data2VecConfig.preset_names())}) and cannot be loaded from the Hub: "
                f"{str(error).splitlines()[0]}"
            ) from error
    if not isinstance(config, Data2VecConfig):
        plain = PlainConfig(config, name)
        plain.override(overrides)
        return plain
    for key, value in overrides.items():
        _override(config, key, value)
    for part in (config, *map(config.modality_config, config.modalities)):
        part.check()
    return config


def _override(config: Any, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, dict) and hasattr(getattr(config, key, None), "to_dict"):
        for name, inner in value.items():
            _override(getattr(config, key), name, inner)
    elif hasattr(config, key):
        setattr(config, key, value)
    else:
        raise ValueError(f"{type(config).__name__} has no field {key!r}.")


def load_model(auto_class: Any, model_args: ModelArguments, config: Data2VecConfig | PlainConfig) -> PreTrainedModel:
    """Load the model to fine-tune: the weights of the checkpoint with a new head, or random weights.

    Args:
        auto_class: Auto class, such as `AutoModelForImageClassification`.
        model_args: Options that name the checkpoint, or ask for random weights.
        config: Configuration from `load_config`.
    """
    if isinstance(config, PlainConfig):
        return load_plain_model(
            auto_class,
            model_args.finetuned_from,
            config,
            ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
            **model_args.hub_options,
        )
    if model_args.from_scratch:
        return auto_class.from_config(config, trust_remote_code=model_args.trust_remote_code)
    return auto_class.from_pretrained(
        model_args.model_name_or_path,
        config=config,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        **model_args.hub_options,
    )
