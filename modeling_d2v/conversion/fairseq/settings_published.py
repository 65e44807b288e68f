"""Settings for weights of data2vec 1.0 in fairseq's layout that come without any: those of the published models.

Sizes follow from the tensors; see `settings_v1.py`.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any


# What the published settings files set.
PUBLISHED: dict[str, dict[str, Any]] = {
    "fairseq-v1-audio": {
        "encoder_layerdrop": 0.05,
        "mask_prob": 0.65,
        "mask_length": 10,
        "instance_norm_target_layer": True,
        "average_top_k_layers": 8,
        "ema_anneal_end_step": 30_000,
    },
    "fairseq-v1-text": {
        "head_layers": 2,
        "average_top_k_layers": 10,
        "layer_norm_target_layer": True,
        "loss_scale": 1.0,
        "loss_beta": 4.0,
        "ema_anneal_end_step": 300_000,
        "transformer": {
            "attention_dropout": 0.1,
            "activation_fn": "gelu",
            "no_scale_embedding": True,
            "encoder": {"learned_pos": True},
        },
    },
    "fairseq-v1-vision": {"loss_beta": 2.0, "layer_norm_targets": True},
}
_HEAD_WIDTH = 64  # of every published model
_PUBLISHED_WIDTHS = (768, 1024)


def published_settings(kind: str, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], str]:
    """Return settings for weights that come without, and a sentence that says what they assume.

    Args:
        kind: One of `PUBLISHED`.
        shapes: Shapes of the tensors by name.

    Raises:
        ValueError: The tensors do not tell the number of heads, and the width is not that of a published model.
    """
    settings = copy.deepcopy(PUBLISHED[kind])
    notes: list[str] = []
    if kind != "fairseq-v1-vision":
        text = kind == "fairseq-v1-text"
        mark = r"sentence_encoder\.embed_tokens\.weight$" if text else r"^post_extract_proj\.bias$"
        name = next((name for name in shapes if re.search(mark, name) and not name.startswith("_ema.")), None)
        width = None if name is None else shapes[name][-1]
        if width not in _PUBLISHED_WIDTHS:
            example = (
                '{"transformer": {"encoder": {"attention_heads": 8}}}' if text else '{"encoder_attention_heads": 8}'
            )
            raise ValueError(
                f"The file has no settings, its tensors do not tell the number of attention heads, and no published "
                f"model has its width ({width}). Give what you know of its settings in a JSON file (`settings`), at "
                f"least {example}."
            )
        heads = width // _HEAD_WIDTH
        if text:
            settings["transformer"]["encoder"]["attention_heads"] = heads
        else:
            settings["encoder_attention_heads"] = heads
        notes.append(f"{heads} heads")
    notes += ["post-norm blocks"] if kind == "fairseq-v1-audio" else []
    notes += ["strides of the convolutions"] if kind == "fairseq-v1-audio" else []
    return settings, (
        f"The file has no settings: sizes are those of its tensors, everything else ({', '.join([*notes, 'masks'])}, "
        "targets and loss) was assumed to be as published."
    )
