"""From options to the configuration and the model of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from d2v_train.inputs.byte_tokens import BYTE_IDS
from d2v_train.models.backbones import build_backbone_config, build_backbone_model
from d2v_train.models.shared_blocks import freeze_blocks, take_blocks, with_block_fields
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from modeling_d2v.sharing.places import model_place


def build_config(options: Options, vocab_size: int | None = None) -> Data2VecConfig:
    """Build the model configuration: preset, `init_from` or `backbone`, then the fields of the `model` section.

    Args:
        options: Options of the run.
        vocab_size: Entries of the tokenizer, which determine the size of the text embedding; None without one.
    """
    if options.backbone is not None:
        return build_backbone_config(options)
    fields = {key: dict(value) if isinstance(value, dict) else value for key, value in options.model.items()}
    preset = fields.pop("preset", None)
    whole = options.init_from is not None and options.init_parts == "all"
    if whole and preset is not None:
        raise OptionError(f"init_from already determines the model, so model.preset={preset} conflicts. Drop one.")
    fields.setdefault("modalities", options.modalities)
    text = fields.get("text_config") or {}
    if text.get("front_end") == "perceiver":
        text = fields["text_config"] = {**BYTE_IDS, **text}
    size = text.get("vocab_size") if vocab_size is None else vocab_size
    if isinstance(size, int):
        # The last entry is the mask token; the id of the preset's larger vocabulary would be out of range.
        fields["text_config"] = {"mask_token_id": size - 1, **text, "vocab_size": size}
    if whole:
        start = starting_config(options.init_from).to_dict()
        if not set(start["modalities"]) & set(options.modalities):
            has, wanted = ", ".join(start["modalities"]), ", ".join(options.modalities)
            raise OptionError(
                f"init_from={options.init_from} is a model of {has}, and the run trains {wanted}. Give a model with a "
                "common modality, or take the shared blocks alone with init_parts=blocks."
            )
        for name in ("norms", "feed_forward"):
            if fields.get(name, start[name]) != start[name]:
                raise OptionError(
                    f"init_from={options.init_from} has model.{name}={start[name]}. To change it, take the shared "
                    "blocks alone with init_parts=blocks."
                )
        fields["modalities"] = sorted({*start["modalities"], *fields["modalities"]})
        fields = _merge(start, fields)
        config = Data2VecConfig(**{key: value for key, value in fields.items() if key != "model_type"})
    else:
        if options.init_from is not None:
            fields = with_block_fields(fields, starting_config(options.init_from), options.init_from)
        config = Data2VecConfig.preset(preset, **fields) if preset else Data2VecConfig(**fields)
    missing = [name for name in options.modalities if name not in config.modalities]
    if missing:
        raise OptionError(f"The run has a section for {', '.join(missing)}, but model.modalities is "
                          f"{config.modalities}. Add it there, or set {missing[0]}=null.")  # fmt: skip
    return config


def starting_config(init_from: str) -> Data2VecConfig:
    """Return the configuration of the checkpoint that a run starts from.

    Raises:
        OptionError: There is no such folder or repository, or it does not hold a model of this package.
    """
    try:
        config = AutoConfig.from_pretrained(model_place(init_from))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"init_from={init_from} cannot be read; give the folder of a checkpoint, or the name of one on the Hub. "
            f"({' '.join(str(error).split())})"
        ) from error
    if not isinstance(config, Data2VecConfig):
        raise OptionError(f"init_from={init_from} is a model of type {config.model_type!r}. Give a checkpoint of this "
                          f"package, of type {Data2VecConfig.model_type!r}.")  # fmt: skip
    return config


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and merged.get(key) else value
    return merged


def build_model(options: Options, config: Data2VecConfig) -> Data2VecForPreTraining:
    """Build the model with the weights of `init_from` or `backbone`, or with weights drawn from the seed.

    Raises:
        OptionError: The weights of `init_from` do not fit the `model` section.
    """
    set_seed(options.seed)
    if options.backbone is not None:
        model = build_backbone_model(options, config)
    elif options.init_from is not None and options.init_parts == "all":
        try:
            model = Data2VecForPreTraining.from_pretrained(model_place(options.init_from), config=config)
        except RuntimeError as error:
            raise OptionError(
                f"The weights of init_from={options.init_from} do not have the shapes of the model section. Remove "
                "settings that change shapes, such as hidden_size: the checkpoint determines them. "
                f"({' '.join(str(error).split())})"
            ) from error
        # The decay of the teacher follows the steps of this run, not those of the one before.
        model.ema_step.zero_()
    else:
        model = Data2VecForPreTraining(config)
        if options.init_from is not None:
            take_blocks(model, options.init_from)
    model = model.to(torch.float32)
    if options.freeze == "blocks":
        freeze_blocks(model)
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model
