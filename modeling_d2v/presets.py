"""Published model configurations as keyword arguments of `Data2VecConfig`, one row for each released or printed model.

A row holds what decides the model and its self-supervised task: sizes, front end, masks, decoder, targets and teacher.
Optimizer, learning rate, batch size and number of updates belong to the training configuration.

Sources: the configuration files in `PRESET_SOURCES`, read together with the defaults of the reference's dataclasses;
data2vec 1.0 = Baevski et al. 2022 (arXiv 2202.03555), 2.0 = Baevski et al. 2023 (arXiv 2212.07525), EAT = Chen et al.
2024 (arXiv 2401.03497), which is 2.0 over patches of spectrograms and published with all of its settings. EAT cuts or
pads recordings to 10.24 seconds, and sees the padding; here each of them keeps its own length.

Three settings of 1.0 are restated, because the samplers of this package mask an exact share of the tokens while those
of 1.0 drew overlapping spans or rectangles:

- audio: starts with probability 0.65 / 10 and spans of 10 frames cover 49 % of an utterance;
- text: starts with probability 0.35 / 4 and spans of 4 tokens cover 31 % of a block, all of them by the mask token.
  The paper also describes BERT's masks (15 % single tokens, of which 80 % masked, 10 % random, 10 % kept): for those
  set mask_sampler="random", mask_prob=0.15, mask_length=1, mask_random_prob=0.1, mask_keep_prob=0.1;
- vision: rectangles of 16 patches or more until exactly 120 of 196 are masked become blocks of 6 x 6 trimmed to 120,
  the square whose masks are closest to them in the share of masked patches that have masked neighbours.

This file travels inside checkpoints and imports nothing but the standard library.
"""

import copy
import difflib
from typing import Any


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}

_DROPOUT = {"hidden_dropout": 0.1, "mlp_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0}
_NO_DROPOUT = dict.fromkeys(_DROPOUT, 0.0)

_VERSION_2 = {"masked_tokens": "dropped", "norm_first": False}
_VERSION_1 = {"masked_tokens": "replaced"}

# A head of 1.0 is a projection of the masked tokens without convolutions before it.
_HEAD_1 = {"num_masks": 1, "decoder_layers": 0, "decoder_projection_layers": 1, "decoder_input_dropout": 0.0}


def span_share(prob: float, length: int) -> float:
    """Share of tokens covered when each token starts a span of `length` tokens with probability prob / length."""
    return round(1 - (1 - prob / length) ** length, 4)


def _ema(start: float, end: float, steps: int) -> dict[str, float | int]:
    return {"ema_decay": start, "ema_end_decay": end, "ema_anneal_end_step": steps}


def _row(modality: str, *parts: dict[str, Any], **modality_parts: Any) -> dict[str, Any]:
    """Merges model-wide parts, where later ones win, and adds the settings of the one modality."""
    row: dict[str, Any] = {"modalities": [modality]}
    for part in parts:
        row |= part
    return row | {f"{modality}_config": modality_parts}


_AUDIO_FRONT_END = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "sampling_rate": 16000,
    "conv_pos_depth": 5,
    "conv_pos_width": 95,
    "conv_pos_groups": 16,
    "context_norm": True,
    "prenet_dropout": 0.1,  # follows the context norm, also where the prenet has no blocks
    "mask_sampler": "span",
    "layer_target_norm": "instance",
    "mean_target_norm": None,
    "loss_beta": 0.0,
    "loss_scale": None,
    "ema_scope": "context",
}
_AUDIO_2 = _AUDIO_FRONT_END | {
    "alibi": "learned",
    "alibi_scale": 1.0,
    "alibi_scale_per_head": True,
    "mask_length": 5,
    "mask_noise_std": 0.01,
    "decoder_layers": 4,
    "decoder_kernel_size": 7,
    "decoder_groups": 16,
    "decoder_input_dropout": 0.1,
}
_AUDIO_1 = (
    _AUDIO_FRONT_END
    | _HEAD_1
    | {
        "alibi": None,
        "mask_prob": span_share(0.65, 10),
        "mask_length": 10,
        "mask_prob_adjust": 0.0,
        "average_top_k_layers": 8,
        "ema_copied": ["position_encoder"],
    }
)

# EAT: data2vec 2.0 as for images, over spectrograms.
_SPECTROGRAM = {
    "front_end": "spectrogram",
    "mel_bins": 128,
    "mel_mean": -4.268,
    "mel_std": 4.569,
    "num_extra_tokens": 1,
    "init_extra_token_zero": False,
    "prenet_depth": 0,
    "prenet_dropout": 0.0,
    "prenet_layerdrop": 0.0,
    "context_norm": True,
    "alibi": None,
    "mask_sampler": "inverse_block",
    "mask_length": 5,
    "mask_noise_std": 0.01,
    "num_masks": 16,
    "decoder_groups": 16,
    "decoder_input_dropout": 0.0,
    "layer_target_norm": "instance",
    "mean_target_norm": "layer",
    "loss_beta": 0.0,
    "loss_scale": None,
    # Summed over the rows of a device, 12 recordings and 16 masks, as the program of EAT does.
    "cls_loss_weight": 1.0,
    "cls_loss_rows": 12 * 16,
    "ema_scope": "all",
}

_VISION = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "num_extra_tokens": 1,
    "prenet_depth": 0,
    "mean_target_norm": "layer",
    "ema_scope": "all",
}
_VISION_2 = _VISION | {
    "init_extra_token_zero": False,
    "context_norm": True,
    "position_embedding": "sincos_2d",
    "mask_sampler": "inverse_block",
    "mask_prob": 0.75,
    "mask_length": 3,
    "mask_prob_adjust": 0.1,
    "mask_noise_std": 0.01,
    "num_masks": 16,
    "decoder_layers": 3,
    "decoder_kernel_size": 5,
    "decoder_hidden_size": 1024,
    "decoder_groups": 16,
    "decoder_input_dropout": 0.0,
    "layer_target_norm": "instance",
    "loss_beta": 0.0,
    "loss_scale": None,
    "cls_loss_weight": 0.01,
    "cls_loss_rows": 8 * 16,
}
_VISION_1 = (
    _VISION
    | _HEAD_1
    | {
        # The reference draws the class token from N(0, 0.02); zero is nearer to that than N(0, 1).
        "init_extra_token_zero": True,
        "context_norm": False,
        "position_embedding": "none",
        "relative_position_bias": True,
        "mask_sampler": "block",
        "mask_prob": 120 / 196,
        "mask_length": 6,
        "mask_prob_adjust": 0.6,
        "average_top_k_layers": 6,
        "end_of_block_targets": True,
        "layer_target_norm": "layer",
        "loss_beta": 2.0,
        "cls_loss_weight": 0.0,
    }
)
_VISION_1_MODEL = _NO_DROPOUT | _VERSION_1 | {"norm_first": True, "layer_norm_eps": 1e-6}

_TEXT = {
    "vocab_size": 50265,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "mask_token_id": 50264,
    "embedding_dropout": 0.1,
    "context_norm": False,
    "loss_scale": 1.0,
}
_TEXT_2 = _TEXT | {
    "mask_sampler": "random",
    "mask_length": 1,
    "mask_noise_std": 0.01,
    "num_masks": 8,
    "decoder_layers": 5,
    "decoder_kernel_size": 9,
    "decoder_hidden_size": 768,
    "decoder_groups": 1,
    "decoder_residual": False,
    "decoder_projection_layers": 2,
    "decoder_projection_ratio": 2.0,
    "decoder_input_dropout": 0.1,
    "loss_beta": 0.0,
    "ema_scope": "blocks",
}
_TEXT_2_MODEL = _DROPOUT | _VERSION_2 | _ema(0.9999, 0.99999, 100_000) | {"layer_norm_eps": 1e-5}
_AUDIO_MODEL = _DROPOUT | {"layer_norm_eps": 1e-5}
_SPECTROGRAM_MODEL = _NO_DROPOUT | _VERSION_2 | {"layer_norm_eps": 1e-6}
_VISION_2_MODEL = _NO_DROPOUT | _VERSION_2 | {"layer_norm_eps": 1e-6}

PRESETS: dict[str, dict[str, Any]] = {
    "audio-base": _row(
        "audio",
        _BASE,
        _AUDIO_MODEL,
        _VERSION_2,
        _ema(0.999, 0.99999, 75_000),
        {"layerdrop": 0.05},
        **_AUDIO_2
        | {
            "prenet_depth": 0,
            "prenet_layerdrop": 0.05,
            "mask_prob": 0.5,
            "mask_prob_adjust": 0.05,
            "num_masks": 8,
            "decoder_hidden_size": 384,
            "average_top_k_layers": 8,
        },
    ),
    "audio-large": _row(
        "audio",
        _LARGE,
        _AUDIO_MODEL,
        _VERSION_2,
        _ema(0.9997, 1.0, 300_000),
        {"num_hidden_layers": 16, "layerdrop": 0.0},
        **_AUDIO_2
        | {
            "prenet_depth": 8,
            "prenet_layerdrop": 0.0,
            "mask_prob": 0.55,
            "mask_prob_adjust": 0.1,
            "num_masks": 12,
            "decoder_hidden_size": 768,
            "average_top_k_layers": 16,
        },
    ),
    "audio-spectrogram-base": _row(
        "audio",
        _BASE,
        _SPECTROGRAM_MODEL,
        _ema(0.9998, 0.99999, 100_000),
        **_SPECTROGRAM
        | {
            "mask_prob": 0.8,
            "mask_prob_adjust": 0.07,
            "decoder_layers": 6,
            "decoder_kernel_size": 3,
            "decoder_hidden_size": 768,
            "average_top_k_layers": 12,
        },
    ),
    "audio-spectrogram-large": _row(
        "audio",
        _LARGE,
        _SPECTROGRAM_MODEL,
        _ema(0.9998, 0.99999, 150_000),
        **_SPECTROGRAM
        | {
            "mask_prob": 0.75,
            "mask_prob_adjust": 0.1,
            "decoder_layers": 3,
            "decoder_kernel_size": 5,
            "decoder_hidden_size": 1024,
            "average_top_k_layers": 24,
        },
    ),
    "vision-base": _row(
        "vision",
        _BASE,
        _VISION_2_MODEL,
        _ema(0.9998, 0.99999, 100_000),
        {"num_hidden_layers": 10},
        **_VISION_2
        | {
            "prenet_depth": 2,
            "mask_prob": 0.8,
            "mask_prob_adjust": 0.07,
            "decoder_layers": 6,
            "decoder_kernel_size": 3,
            "decoder_hidden_size": 768,
            "average_top_k_layers": 10,
            "cls_loss_rows": 16 * 16,
        },
    ),
    "vision-large": _row(
        "vision",
        _LARGE,
        _VISION_2_MODEL,
        _ema(0.9998, 0.99999, 150_000),
        **_VISION_2 | {"average_top_k_layers": 18},
    ),
    "vision-huge": _row(
        "vision",
        _HUGE,
        _VISION_2_MODEL,
        _ema(0.9998, 1.0, 300_000),
        **_VISION_2 | {"patch_size": 14, "average_top_k_layers": 24},
    ),
    "text-base": _row(
        "text",
        _BASE,
        _TEXT_2_MODEL,
        **_TEXT_2
        | {
            "mask_prob": 0.48,
            "average_top_k_layers": 12,
            "layer_target_norm": "instance",
            "mean_target_norm": None,
        },
    ),
    "text-large": _row(
        "text",
        _LARGE,
        _TEXT_2_MODEL,
        **_TEXT_2
        | {
            "mask_prob": 0.5,
            "average_top_k_layers": 24,
            "layer_target_norm": "layer",
            "mean_target_norm": "instance",
        },
    ),
    "audio-base-v1": _row(
        "audio",
        _BASE,
        _AUDIO_MODEL,
        _VERSION_1,
        _ema(0.999, 0.9999, 30_000),
        {"norm_first": False, "layerdrop": 0.05},
        **_AUDIO_1,
    ),
    # No configuration file of this model was published: sizes from section 4 of the paper, the rest as in the base.
    "audio-large-v1": _row(
        "audio",
        _LARGE,
        _AUDIO_MODEL,
        _VERSION_1,
        _ema(0.999, 0.9999, 30_000),
        {"norm_first": False, "layerdrop": 0.05},
        **_AUDIO_1,
    ),
    "vision-base-v1": _row(
        "vision",
        _BASE,
        _VISION_1_MODEL,
        _ema(0.9998, 0.9998, 1),  # constant
        {"layer_scale_init_value": 1e-4, "drop_path_rate": 0.25, "attention_dropout": 0.05},
        **_VISION_1 | {"loss_scale": 1 / 768},  # the reference averages over channels
    ),
    # The 1600-epoch model went on from the 800-epoch one with a constant decay of 0.9999.
    "vision-large-v1": _row(
        "vision",
        _LARGE,
        _VISION_1_MODEL,
        _ema(0.9998, 0.9998, 1),  # constant
        {"layer_scale_init_value": 1e-5, "drop_path_rate": 0.2, "attention_dropout": 0.15},
        **_VISION_1 | {"loss_scale": 1 / 1024},
    ),
    "text-base-v1": _row(
        "text",
        _BASE,
        _DROPOUT,
        _VERSION_1,
        _ema(0.999, 0.9999, 300_000),
        {"norm_first": False, "layer_norm_eps": 1e-5},
        **_TEXT
        | _HEAD_1
        | {
            "decoder_projection_layers": 2,
            "decoder_projection_ratio": 2.0,
            "mask_sampler": "span",
            "mask_prob": span_share(0.35, 4),
            "mask_length": 4,
            "mask_prob_adjust": 0.0,
            "average_top_k_layers": 10,
            "layer_target_norm": "layer",
            "mean_target_norm": None,
            "loss_beta": 4.0,
            # The teacher embeds with the student's weights, but without dropout.
            "ema_scope": "all",
            "ema_copied": ["local_encoder"],
        },
    ),
}

_FAIRSEQ = "facebookresearch/fairseq: examples/data2vec/config"
_EAT = "cwx-worst-one/EAT: config"
_BEIT = "facebookresearch/data2vec_vision: beit/README.md"
PRESET_SOURCES: dict[str, str] = {
    "audio-base": f"{_FAIRSEQ}/v2/base_audio_only_task.yaml",
    "audio-large": f"{_FAIRSEQ}/v2/large_audio_only_task.yaml",
    "audio-spectrogram-base": f"{_EAT}/pretraining_AS2M.yaml, spectrogram of data/raw_audio_dataset.py",
    "audio-spectrogram-large": f"{_EAT}/pretraining_AS2M_large.yaml, spectrogram of data/raw_audio_dataset.py",
    "vision-base": f"{_FAIRSEQ}/v2/base_images_only_task.yaml",
    "vision-large": f"{_FAIRSEQ}/v2/large_images_only_task.yaml",
    "vision-huge": f"{_FAIRSEQ}/v2/huge_images14_only_task.yaml",
    "text-base": f"{_FAIRSEQ}/v2/base_text_only_task.yaml",
    "text-large": f"{_FAIRSEQ}/v2/large_text_only_task.yaml",
    "audio-base-v1": f"{_FAIRSEQ}/audio/pretraining/base_librispeech.yaml",
    "audio-large-v1": f"{_FAIRSEQ}/audio/pretraining/base_librispeech.yaml, sizes of arXiv 2202.03555, section 4",
    "vision-base-v1": f"{_BEIT}, command for ViT-B",
    "vision-large-v1": f"{_BEIT}, command for ViT-L, 800 epochs",
    "text-base-v1": f"{_FAIRSEQ}/text/pretraining/base.yaml",
}


def preset_names() -> list[str]:
    """Names of all published configurations, version 2.0 first."""
    return list(PRESETS)


def get_preset(name: str) -> dict[str, Any]:
    """Looks up a published configuration.

    Args:
        name: One of `preset_names()`: modality and size, with "-v1" for data2vec 1.0.

    Returns:
        Keyword arguments of `Data2VecConfig`, a fresh copy that may be changed.

    Raises:
        ValueError: There is no such preset; the message names the nearest one and all others.
    """
    if name not in PRESETS:
        nearest = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"There is no preset named {name!r}. The nearest one is {nearest!r}. All of them: {', '.join(PRESETS)}."
        )
    return copy.deepcopy(PRESETS[name])
