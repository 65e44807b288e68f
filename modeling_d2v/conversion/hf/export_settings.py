"""Configurations of this package as those of transformers, and checks of what transformers cannot compute.

Another value of a setting that is fixed in transformers is an error. Settings that matter in training only (dropouts,
stochastic depth) are left out and noted.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.hf.audio import SAME as SAME_AUDIO
from modeling_d2v.conversion.hf.vision import SAME as SAME_VISION


class Only(NamedTuple):
    """A setting with a fixed value in transformers.

    Args:
        field: Its name; "modality." stands for the configuration of the modality.
        value: The fixed value.
        reason: What transformers lacks.
    """

    field: str
    value: Any
    reason: str


_SAME_EVERYWHERE = (
    Only("modality.alibi", None, "it has no attention bias by distance (ALiBi, of data2vec 2.0)"),
    Only("modality.prenet_depth", 0, "it has no blocks before the shared ones (the prenet of data2vec 2.0)"),
    Only("norm_affine", True, "all of its norms have weights"),
    Only("modality_embedding", False, "it adds no vector of the modality"),
    Only("qk_norm", False, "it does not normalise queries and keys"),
)
_POST_NORM = (
    Only("norm_first", False, "its blocks normalise after attention and feed-forward part"),
    Only("layer_scale_init_value", None, "its blocks have no layer scale"),
    Only("modality.num_extra_tokens", 0, "it puts no learned tokens before the sequence"),
)
REQUIRED: dict[str, tuple[Only, ...]] = {
    "audio": (
        *_SAME_EVERYWHERE,
        *_POST_NORM,
        Only("modality.front_end", "convolutions", "it has convolutions over the waveform"),
        Only("modality.conv_norm", "layer", "each of its convolutions has a layer norm"),
        Only("modality.conv_pos_pre_norm", False, "it does not normalise the input of its positions"),
        Only("modality.context_norm", True, "it always normalises before the first block"),
    ),
    "text": (
        *_SAME_EVERYWHERE,
        *_POST_NORM,
        Only("modality.front_end", "embeddings", "it has a table of tokens"),
        Only("modality.context_norm", False, "it has no norm between the embedding and the first block"),
        Only("modality.position_embedding", "learned", "its positions are a learned table"),
        Only("modality.scale_embedding", False, "it does not scale its embeddings"),
        Only("modality.embedding_norm", True, "it always normalises its embeddings"),
    ),
    "vision": (
        *_SAME_EVERYWHERE,
        Only("modality.front_end", "patches", "it has an embedding of patches"),
        Only("norm_first", True, "its blocks normalise before attention and feed-forward part"),
        Only("mlp_residual", True, "its blocks add the feed-forward part to its input"),
        Only("modality.num_extra_tokens", 1, "it has one class token"),
        Only("modality.pooling_start", 0, "its classifier pools all patches"),
        Only("modality.context_norm", False, "it has no norm between the embedding and the first block"),
        Only("modality.position_embedding", "none", "it has no sine and cosine positions (of data2vec 2.0)"),
    ),
}

# Dropout of ours -> the field of theirs that replaces it in training; `None` where there is none.
_DROPOUTS: dict[str, dict[str, str | None]] = {
    "audio": {
        "mlp_dropout": "hidden_dropout",
        "modality.prenet_dropout": "hidden_dropout",
        "modality.conv_dropout": None,
        "input_dropout": None,
        "drop_path_rate": None,
    },
    "text": {
        "mlp_dropout": "hidden_dropout_prob",
        "modality.embedding_dropout": "hidden_dropout_prob",
        "modality.prenet_dropout": None,
        "activation_dropout": None,
        "input_dropout": None,
        "drop_path_rate": None,
        "layerdrop": None,
    },
    "vision": {
        "mlp_dropout": "hidden_dropout_prob",
        "modality.prenet_dropout": "hidden_dropout_prob",
        "modality.classifier_dropout": None,
        "activation_dropout": None,
        "input_dropout": None,
        "layerdrop": None,
    },
}


def export_settings(config: Data2VecConfig, modality: str) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of the configuration class of transformers, for an encoder of one modality.

    Args:
        config: Configuration of our model.
        modality: The exported one.

    Returns:
        The arguments, and a sentence for each setting that they leave out.

    Raises:
        ValueError: Transformers does not support some settings; the message names all of them.
    """
    problems = []
    for field, value, reason in REQUIRED[modality]:
        name, given = _read(config, modality, field)
        if given != value:
            problems.append(f"{name} is {given!r}, there it can only be {value!r}: {reason}")
    problems += _CHECKS[modality](config)
    if problems:
        raise ValueError(
            f"data2vec-{modality} of transformers cannot compute what this model computes:\n  "
            + "\n  ".join(problems)
            + "\nKeep the model in this package: saved with its code, it loads with `trust_remote_code=True`."
        )
    settings = _SETTINGS[modality](config) | {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
    }
    return settings, _left_out(config, modality, settings)


def _read(config: Data2VecConfig, modality: str, field: str) -> tuple[str, Any]:
    """Return the full name and value of a setting."""
    if not field.startswith("modality."):
        return field, getattr(config, field)
    name = field.removeprefix("modality.")
    return f"{modality}_config.{name}", getattr(config.modality_config(modality), name)


def _left_out(config: Data2VecConfig, modality: str, settings: Mapping[str, Any]) -> list[str]:
    notes = []
    for field, theirs in _DROPOUTS[modality].items():
        name, value = _read(config, modality, field)
        instead = settings[theirs] if theirs else 0
        if value != instead:
            other = f"{theirs}={instead} replaces it" if theirs else "it has no counterpart"
            notes.append(f"{name}={value} is left out, which matters in training alone: {other}.")
    return notes


def _same_eps(config: Data2VecConfig, modality: str) -> list[str]:
    name, eps = _read(config, modality, "modality.local_norm_eps")
    if eps == config.layer_norm_eps:
        return []
    return [f"{name} is {eps} and layer_norm_eps {config.layer_norm_eps}, there one number is the eps of all norms"]


def _check_audio(config: Data2VecConfig) -> list[str]:
    problems = _same_eps(config, "audio")
    if not config.audio_config.conv_pos_depth:
        problems.append("audio_config.conv_pos_depth is 0, there at least one convolution gives the positions")
    return problems


def _check_text(config: Data2VecConfig) -> list[str]:
    return _same_eps(config, "text")


def _check_vision(config: Data2VecConfig) -> list[str]:
    width = config.vision_config.embed_dim
    if width in (None, config.hidden_size):
        return []
    return [f"vision_config.embed_dim is {width}, there the patch embedding has the width of the model"]


def _audio(config: Data2VecConfig) -> dict[str, Any]:
    audio = config.audio_config
    return {name: getattr(audio, name) for name in SAME_AUDIO} | {
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "layerdrop": config.layerdrop,
        "num_conv_pos_embeddings": audio.conv_pos_depth,
        "conv_pos_kernel_size": audio.conv_pos_kernel,
        "num_conv_pos_embedding_groups": audio.conv_pos_groups,
        "pad_token_id": audio.pad_token_id,
        # Not a field of theirs, but read if it is set.
        **({} if audio.apply_spec_augment else {"apply_spec_augment": False}),
    }


def _text(config: Data2VecConfig) -> dict[str, Any]:
    text = config.text_config
    return {
        "vocab_size": text.vocab_size,
        # Theirs counts the rows of the table, of which the first pad + 1 are not positions.
        "max_position_embeddings": text.max_position_embeddings + text.pad_token_id + 1,
        "type_vocab_size": 1,
        "pad_token_id": text.pad_token_id,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout": text.classifier_dropout,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _vision(config: Data2VecConfig) -> dict[str, Any]:
    vision, scale = config.vision_config, config.layer_scale_init_value
    settings = {name: getattr(vision, name) for name in SAME_VISION} | {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "num_channels": vision.num_channels,
        "use_relative_position_bias": vision.relative_position_bias_per_layer,
        "use_shared_relative_position_bias": vision.relative_position_bias
        and not vision.relative_position_bias_per_layer,
        # Their blocks have scales if this is positive; the start value itself is not used.
        "layer_scale_init_value": 0.0 if scale is None else scale if scale > 0 else 0.1,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "drop_path_rate": config.drop_path_rate,
    }
    if config.out_indices is not None and len(config.out_indices) == 4:
        settings["out_indices"] = [i % len(config.stage_names) + 1 for i in config.out_indices]
    return settings


_CHECKS: dict[str, Callable[[Data2VecConfig], list[str]]] = {
    "audio": _check_audio,
    "text": _check_text,
    "vision": _check_vision,
}
_SETTINGS: dict[str, Callable[[Data2VecConfig], dict[str, Any]]] = {
    "audio": _audio,
    "text": _text,
    "vision": _vision,
}
