"""Settings of the released checkpoint files, written down from the reference's own configuration files.

What such a file does not say is the default of the reference, which the recorded fixtures hold in full: sizes, targets
and teacher of each file are laid over the settings of a fixture.
"""

import copy
from typing import Any

from tests.modeling_d2v.reference_fixtures import load_reference


CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_AUDIO = {"feature_encoder_spec": CONVOLUTIONS, "conv_pos_width": 95, "conv_pos_groups": 16, "mask_noise_std": 0.01}
_AUDIO_DECODER = {"decoder_dim": 384, "decoder_groups": 16, "decoder_layers": 4}
_IMAGE = {"input_size": 224, "mask_noise_std": 0.01}
_IMAGE_DECODER = {"decoder_dim": 1024, "decoder_groups": 16, "decoder_kernel": 5, "decoder_layers": 3}
_TEXT = {"max_source_positions": 512, "mask_noise_std": 0.01}
_TEXT_DECODER = {"decoder_dim": 768, "decoder_groups": 1, "decoder_layers": 5}

# preset: (fixture whose settings hold every other default, what the published configuration file says of sizes,
#          targets and teacher)
VERSION_2: dict[str, tuple[str, dict[str, Any]]] = {
    "audio-base": (
        "d2v2_audio_base",
        dict(depth=12, embed_dim=768, num_heads=12, clone_batch=8, average_top_k_layers=8)
        | dict(ema_decay=0.999, ema_end_decay=0.99999, ema_anneal_end_step=75_000)
        | {"modalities": {"audio": _AUDIO | {"decoder": _AUDIO_DECODER}}},
    ),
    "audio-large": (
        "d2v2_audio_large",
        dict(depth=16, embed_dim=1024, num_heads=16, clone_batch=12, average_top_k_layers=16)
        | dict(ema_decay=0.9997, ema_end_decay=1, ema_anneal_end_step=300_000)
        | {"modalities": {"audio": _AUDIO | {"prenet_depth": 8, "decoder": _AUDIO_DECODER | {"decoder_dim": 768}}}},
    ),
    "vision-base": (
        "d2v2_image_base",
        dict(depth=10, embed_dim=768, num_heads=12, clone_batch=16, average_top_k_layers=10)
        | dict(ema_decay=0.9998, ema_end_decay=0.99999, ema_anneal_end_step=100_000)
        | {
            "modalities": {
                "image": _IMAGE
                | {
                    "embed_dim": 768,
                    "decoder": _IMAGE_DECODER | dict(decoder_dim=768, decoder_kernel=3, decoder_layers=6),
                }
            }
        },
    ),
    "vision-large": (
        "d2v2_image_base",
        dict(depth=24, embed_dim=1024, num_heads=16, clone_batch=16, average_top_k_layers=18)
        | dict(ema_decay=0.9998, ema_end_decay=0.99999, ema_anneal_end_step=150_000)
        | {
            "modalities": {
                "image": _IMAGE
                | {"prenet_depth": 0, "embed_dim": 1024, "mask_prob": 0.75, "mask_prob_adjust": 0.1}
                | {"decoder": _IMAGE_DECODER}
            }
        },
    ),
    "vision-huge": (
        "d2v2_image_base",
        dict(depth=32, embed_dim=1280, num_heads=16, clone_batch=16, average_top_k_layers=24)
        | dict(ema_decay=0.9998, ema_end_decay=1, ema_anneal_end_step=300_000)
        | {
            "modalities": {
                "image": _IMAGE
                | {"prenet_depth": 0, "embed_dim": 1280, "mask_prob": 0.75, "mask_prob_adjust": 0.1}
                | {"patch_size": 14, "decoder": _IMAGE_DECODER | {"final_layer_norm": False}}
            }
        },
    ),
    "text-base": (
        "d2v2_text_base",
        dict(depth=12, embed_dim=768, num_heads=12, clone_batch=8, average_top_k_layers=12)
        | dict(ema_decay=0.9999, ema_end_decay=0.99999, ema_anneal_end_step=100_000)
        | {"modalities": {"text": _TEXT | {"decoder": _TEXT_DECODER}}},
    ),
    "text-large": (
        "d2v2_text_base",
        dict(depth=24, embed_dim=1024, num_heads=16, clone_batch=8, average_top_k_layers=24)
        | dict(ema_decay=0.9999, ema_end_decay=0.99999, ema_anneal_end_step=100_000)
        | dict(layer_norm_target_layer=True, instance_norm_target_layer=False, instance_norm_targets=True)
        | {"modalities": {"text": _TEXT | {"mask_prob": 0.5, "decoder": _TEXT_DECODER}}},
    ),
}
_V1_EMA = dict(ema_decay=0.999, ema_end_decay=0.9999)
_V1_AUDIO = dict(conv_feature_layers=CONVOLUTIONS, conv_pos=95, conv_pos_groups=16, average_top_k_layers=8)
VERSION_1: dict[str, tuple[str, dict[str, Any]]] = {
    "audio-base-v1": (
        "d2v1_audio_base",
        dict(encoder_layers=12, encoder_embed_dim=768, encoder_ffn_embed_dim=3072, encoder_attention_heads=12)
        | _V1_AUDIO
        | _V1_EMA
        | dict(ema_anneal_end_step=30_000),
    ),
    "audio-large-v1": (
        "d2v1_audio_base",
        dict(encoder_layers=24, encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16)
        | _V1_AUDIO
        | _V1_EMA
        | dict(ema_anneal_end_step=30_000),
    ),
    "text-base-v1": (
        "d2v1_text_base",
        dict(max_positions=512, average_top_k_layers=10, ema_anneal_end_step=300_000)
        | _V1_EMA
        | {
            "transformer": {
                "max_source_positions": 512,
                "encoder": dict(embed_dim=768, ffn_embed_dim=3072, layers=12, attention_heads=12),
            }
        },
    ),
}
# The released image models of 1.0: arguments of BEiT's program.
_BEIT = dict(
    num_mask_patches=120,
    ema_decay=0.9998,
    ema_decay_init=0.999,
    ema_start_at=0,
    layer_results="end",
    l1_beta=2.0,
    post_target_layer_norm=True,
    imagenet_default_mean_and_std=True,
)
BEIT: dict[str, dict[str, Any]] = {
    "vision-base-v1": _BEIT
    | dict(model="beit_base_patch16_224", target_layers="[6,7,8,9,10,11]", drop_path=0.25, attn_drop_rate=0.05)
    | dict(layer_scale_init_value=1e-4),
    "vision-large-v1": _BEIT
    | dict(model="beit_large_patch16_224", target_layers="[18,19,20,21,22,23]", drop_path=0.2, attn_drop_rate=0.15)
    | dict(layer_scale_init_value=1e-5),
}
BEIT_SIZES = {"vision-base-v1": (768, 12, 12), "vision-large-v1": (1024, 24, 16)}  # width, blocks, heads
PRESETS = [*VERSION_2, *VERSION_1, *BEIT]
DEVICE_BATCH = {"vision-base": 16, "vision-large": 8, "vision-huge": 8}  # images, `dataset.batch_size`


def settings_of(preset: str) -> dict[str, Any]:
    """`cfg["model"]` of a released file: every setting of the fixture, with the sizes of the published file."""
    fixture, sizes = {**VERSION_2, **VERSION_1}[preset]
    settings = _merged(load_reference(fixture).record["config"], sizes)
    for section in settings.get("modalities", {}).values():
        section |= {"num_alibi_heads": settings["num_heads"], "model_depth": settings["depth"]}
    return settings


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for name, value in over.items():
        merged[name] = _merged(merged[name], value) if isinstance(value, dict) else value
    return merged


# Files that are fine-tuned for a task, and the class that they become; "pretraining" becomes `Data2VecForPreTraining`.
FINE_TUNED = {
    ("audio-base", "ctc"): "Data2VecForCTC",
    ("audio-large", "ctc"): "Data2VecForCTC",
    ("audio-base-v1", "ctc"): "Data2VecForCTC",
    ("audio-large-v1", "ctc"): "Data2VecForCTC",
    ("vision-base", "images"): "Data2VecForImageClassification",
    ("vision-large", "images"): "Data2VecForImageClassification",
    ("vision-huge", "images"): "Data2VecForImageClassification",
    ("text-base", "texts"): "Data2VecForSequenceClassification",
    ("text-large", "texts"): "Data2VecForSequenceClassification",
}
# Those that are written to the disk full of random numbers and converted by the program.
ON_DISK = [
    *((preset, "pretraining") for preset in PRESETS if "base" in preset),
    *((preset, task) for preset, task in FINE_TUNED if "base" in preset),
]
