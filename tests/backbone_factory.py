"""Tiny encoders of transformers with random weights, and inputs for them."""

from typing import Any

import torch
import transformers
from model_factory import inputs_for, randomise

from modeling_d2v import BackboneForPreTraining


SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
TEXT = dict(vocab_size=50, max_position_embeddings=42, pad_token_id=1, bos_token_id=0, eos_token_id=2)
AUDIO = dict(conv_dim=[8] * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, feat_extract_norm="layer")
VISION = dict(image_size=32, patch_size=8)

# Type of model -> its configuration, beside the sizes.
TEXTS: dict[str, dict[str, Any]] = {
    "roberta": TEXT,
    "bert": TEXT,
    "modernbert": TEXT | dict(cls_token_id=0, sep_token_id=2),
    "albert": TEXT | dict(embedding_size=16),
    "data2vec-text": TEXT | dict(type_vocab_size=1, layer_norm_eps=1e-5),
}
IMAGES: dict[str, dict[str, Any]] = {
    "vit": VISION,
    "beit": VISION | dict(use_relative_position_bias=True, layer_scale_init_value=1.0),
    "deit": VISION,
    "dinov2_with_registers": VISION,
    "dinov3_vit": VISION,
    "clip_vision_model": VISION,
    "data2vec-vision": VISION
    | dict(use_shared_relative_position_bias=True, use_mean_pooling=False, layer_scale_init_value=1.0),
}
RECORDINGS: dict[str, dict[str, Any]] = {
    "wav2vec2": AUDIO,
    "hubert": AUDIO,
    "wavlm": AUDIO,
    "wav2vec2-conformer": AUDIO,
    "data2vec-audio": dict(conv_dim=[8] * 7, num_conv_pos_embeddings=2, conv_pos_kernel_size=5)
    | dict(num_conv_pos_embedding_groups=4),
}
KINDS = {
    kind: modality
    for modality, kinds in (("text", TEXTS), ("vision", IMAGES), ("audio", RECORDINGS))
    for kind in kinds
}
NO_DROPOUT = {
    "text": dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "vision": dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0),
    "audio": dict(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0),
}


def encoder(kind: str, **overrides: Any) -> transformers.PreTrainedModel:
    """A model of `KINDS` whose every weight is random."""
    config = transformers.CONFIG_MAPPING[kind](**{**SIZES, **(TEXTS | IMAGES | RECORDINGS)[kind], **overrides})
    torch.manual_seed(0)
    return randomise(transformers.AutoModel.from_config(config)).eval()


def pretraining(kind: str | transformers.PreTrainedModel, **settings: Any) -> BackboneForPreTraining:
    """The objective over an encoder, with a fast teacher."""
    model = encoder(kind) if isinstance(kind, str) else kind
    if model.main_input_name == "input_ids":
        settings.setdefault("mask_token_id", 49)
    return BackboneForPreTraining.from_backbone(
        model, **{"ema_decay": 0.9, "ema_end_decay": 0.9, "ema_anneal_end_step": 1, **settings}
    )


def inputs_of(kind: str, batch: int = 3) -> dict[str, torch.Tensor]:
    """Unpadded input for a model of `KINDS`."""
    return inputs_for(KINDS[kind], batch)
