"""Tiny configurations, inputs and ways to compare, shared by the model tests."""

from typing import Any

import torch

from modeling_d2v import Data2VecConfig


MODALITIES = ("text", "vision", "audio", "arrays")
PARTS: dict[str, dict[str, Any]] = {
    "text": dict(
        vocab_size=50,
        max_position_embeddings=40,
        embedding_dropout=0.0,
        decoder_layers=2,
        decoder_hidden_size=24,
        decoder_kernel_size=5,
        decoder_input_dropout=0.0,
        num_masks=3,
    ),
    "vision": dict(
        image_size=32,
        patch_size=8,
        prenet_depth=1,
        decoder_layers=2,
        decoder_hidden_size=32,
        decoder_groups=4,
        num_masks=4,
    ),
    "audio": dict(
        conv_dim=[8] * 7,
        conv_pos_depth=2,
        conv_pos_width=10,
        conv_pos_groups=4,
        prenet_depth=1,
        prenet_dropout=0.0,
        prenet_layerdrop=0.0,
        decoder_layers=2,
        decoder_hidden_size=16,
        decoder_groups=4,
        decoder_input_dropout=0.0,
        num_masks=3,
    ),
    "arrays": dict(
        num_channels=3,
        group_size=8,
        group_latents=2,
        latent_size=16,
        latent_heads=2,
        fourier_bands=4,
        decoder_layers=2,
        decoder_hidden_size=16,
        decoder_kernel_size=5,
        decoder_groups=4,
        num_masks=3,
    ),
}

# The first lines of a program that runs where the package is not importable, however it was installed.
HIDE_PACKAGE = """
import os, sys
sys.path = [p for p in sys.path if p and not os.path.isdir(os.path.join(p, "modeling_d2v"))]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
try:
    import modeling_d2v
    raise SystemExit("the package is importable: this process shows nothing")
except ImportError:
    pass
"""


# The other front end of audio: rows of 4 patches, each of 880 samples, 640 apart.
SPECTROGRAM: dict[str, Any] = dict(
    front_end="spectrogram",
    mel_bins=32,
    patch_frames=4,
    patch_bins=8,
    num_extra_tokens=1,
    alibi=None,
    mask_sampler="inverse_block",
    mask_prob=0.6,
    mask_length=2,
    mask_prob_adjust=0.05,
    decoder_kernel_size=3,
    mean_target_norm="layer",
    cls_loss_weight=0.01,
    ema_scope="all",
)


# The front end of all modalities, at tiny size.
PERCEIVER: dict[str, Any] = dict(
    front_end="perceiver", group_size=16, group_latents=2, latent_size=16, latent_heads=2, fourier_bands=4, alibi=None
)


# Latents for cells of groups, which are fewer than the tokens.
CELLS: dict[str, Any] = dict(
    grouping="global", latent_stride=2, decoder_type="cross_attention", decoder_num_attention_heads=2
)


# Every front end: its modality, and the settings that choose it.
FRONT_ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{modality: (modality, {}) for modality in MODALITIES},
    "spectrogram": ("audio", SPECTROGRAM),
    "text perceiver": ("text", {**PERCEIVER, "group_size": 4}),
    "vision perceiver": ("vision", {**PERCEIVER, "prenet_depth": 1}),
    "audio perceiver": ("audio", {**PERCEIVER, "group_size": 320}),
    "vision perceiver latents": ("vision", {**PERCEIVER, "grouping": "global", "prenet_depth": 1}),
    "audio perceiver latents": ("audio", {**PERCEIVER, **CELLS, "group_size": 160}),
}


def tiny_config(modalities: str | tuple[str, ...] = MODALITIES, **overrides: Any) -> Data2VecConfig:
    """A configuration with a width of 32, two shared blocks and no dropout."""
    names = (modalities,) if isinstance(modalities, str) else modalities
    values: dict[str, Any] = dict(
        modalities=list(names),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout=0.0,
        mlp_dropout=0.0,
        attention_dropout=0.0,
        ema_decay=0.9,
        ema_end_decay=0.99,
        ema_anneal_end_step=10,
    )
    for name in names:
        values[f"{name}_config"] = {**PARTS[name], **overrides.pop(f"{name}_config", {})}
    return Data2VecConfig(**{**values, **overrides})


# The shape of each published version at tiny size: what differs between them is configuration.
VERSIONS: dict[str, dict[str, Any]] = {
    "2.0": {},
    "2.0 pre-norm": {"norm_first": True},
    "1.0": {
        "masked_tokens": "replaced",
        "text_config": {"num_masks": 1, "ema_scope": "all", "mask_random_prob": 0.1, "mask_keep_prob": 0.1},
        "audio_config": {"num_masks": 1, "alibi": None, "prenet_depth": 0},
        "vision_config": {
            "num_masks": 1,
            "prenet_depth": 0,
            "position_embedding": "none",
            "relative_position_bias": True,
            "mask_sampler": "block",
            "mask_prob": 0.6,
            "mask_length": 2,
            "cls_loss_weight": 0.0,
            "ema_scope": "context",
        },
        "layer_scale_init_value": 0.1,
    },
}


def version_config(version: str, modality: str, **overrides: Any) -> Data2VecConfig:
    """`tiny_config` of one modality in one of `VERSIONS`."""
    settings = {k: v for k, v in VERSIONS[version].items() if not k.endswith("_config")}
    settings[f"{modality}_config"] = VERSIONS[version].get(f"{modality}_config", {})
    return tiny_config(modality, **{**settings, **overrides})


def front_end_config(version: str, front_end: str, **overrides: Any) -> Data2VecConfig:
    """`version_config` of one of `FRONT_ENDS`; settings of its modality, and those of the model."""
    modality, own = FRONT_ENDS[front_end]
    key = f"{modality}_config"
    settings = {**VERSIONS[version].get(key, {}), **own, **overrides.pop(key, {})}
    return version_config(version, modality, **{key: settings}, **overrides)


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every parameter away from its special start values (0, 1), so that none can hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def inputs_for(modality: str, batch: int = 2, seed: int = 0, size: int | None = None) -> dict[str, torch.Tensor]:
    """Unpadded input: `size` tokens, pixels a side, samples, or entries of a series."""
    generator = torch.Generator().manual_seed(seed)
    if modality == "text":
        return {"input_ids": torch.randint(4, 49, (batch, size or 20), generator=generator)}
    if modality == "vision":
        return {"pixel_values": torch.randn(batch, 3, size or 32, size or 32, generator=generator)}
    if modality == "arrays":
        return {"array_values": torch.randn(batch, size or 90, 3, generator=generator)}
    return {"input_values": torch.randn(batch, size or 6000, generator=generator)}


def padded_inputs(modality: str) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A padded batch (not of images) of three lengths, and its samples alone."""
    lengths = {"text": (20, 11, 5), "audio": (6000, 3700, 900), "arrays": (90, 50, 11)}[modality]
    pad = 1 if modality == "text" else 0
    full = inputs_for(modality, batch=3, size=lengths[0])
    ((name, values),) = full.items()
    attention_mask = torch.arange(lengths[0])[None] < torch.tensor(lengths)[:, None]
    padding = ~attention_mask[(..., *[None] * (values.dim() - 2))]
    batch = {name: values.masked_fill(padding, pad), "attention_mask": attention_mask.long()}
    return batch, [{name: values[i : i + 1, :length]} for i, length in enumerate(lengths)]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
