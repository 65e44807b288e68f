"""Text models of transformers (data2vec-text): their settings as ours, and where each tensor goes.

transformers adds a segment embedding to every token. data2vec was trained without segments: the first one, which every
token has, becomes part of the position embedding, and the others have no counterpart.
"""

from collections.abc import Mapping
from typing import Any

from modeling_d2v.conversion.tensors import NameTable, Place, Unused, rename
from modeling_d2v.presets import get_preset


# Names in transformers and here.
NAMES: NameTable = (
    (
        "data2vec_text.embeddings.word_embeddings.weight",
        "data2vec.modality_encoders.text.local_encoder.token_embeddings.weight",
    ),
    (
        "data2vec_text.embeddings.position_embeddings.weight",
        "data2vec.modality_encoders.text.local_encoder.position_embeddings.weight",
    ),
    (
        "data2vec_text.embeddings.token_type_embeddings.weight",
        "data2vec.modality_encoders.text.local_encoder.position_embeddings.weight#+",
    ),
    ("data2vec_text.embeddings.LayerNorm.*", "data2vec.modality_encoders.text.local_encoder.layer_norm.*"),
    ("data2vec_text.encoder.layer.*.attention.self.query.*", "data2vec.encoder.blocks.*.attention.qkv.*#q"),
    ("data2vec_text.encoder.layer.*.attention.self.key.*", "data2vec.encoder.blocks.*.attention.qkv.*#k"),
    ("data2vec_text.encoder.layer.*.attention.self.value.*", "data2vec.encoder.blocks.*.attention.qkv.*#v"),
    ("data2vec_text.encoder.layer.*.attention.output.dense.*", "data2vec.encoder.blocks.*.attention.projection.*"),
    ("data2vec_text.encoder.layer.*.attention.output.LayerNorm.*", "data2vec.encoder.blocks.*.norm1.*"),
    ("data2vec_text.encoder.layer.*.intermediate.dense.*", "data2vec.encoder.blocks.*.mlp.fc1.*"),
    ("data2vec_text.encoder.layer.*.output.dense.*", "data2vec.encoder.blocks.*.mlp.fc2.*"),
    ("data2vec_text.encoder.layer.*.output.LayerNorm.*", "data2vec.encoder.blocks.*.norm2.*"),
    ("data2vec_text.pooler.dense.*", "pooler.dense.*"),
    ("lm_head.dense.*", "lm_head.dense.*"),
    ("lm_head.layer_norm.*", "lm_head.layer_norm.*"),
    ("lm_head.decoder.weight", "lm_head.decoder.weight"),
    ("lm_head.decoder.bias", "lm_head.decoder.bias"),
    ("lm_head.bias", "lm_head.decoder.bias"),
    ("classifier.*", "classifier.*"),
    ("classifier.dense.*", "classifier.dense.*"),
    ("classifier.out_proj.*", "classifier.out_proj.*"),
    ("qa_outputs.*", "qa_outputs.*"),
)

WITHOUT_WEIGHTS = {
    "data2vec_text.embeddings.position_ids": "counts positions, holds no weights",
    "data2vec_text.embeddings.token_type_ids": "zeros, holds no weights",
}
SPARE = {
    "data2vec_text.pooler.dense.weight": "only the head for multiple choice reads the pooler",
    "data2vec_text.pooler.dense.bias": "only the head for multiple choice reads the pooler",
    "lm_head.decoder.weight": "the same tensor as the token embedding",
    # Files hold one of the two; if they hold both, this one is not used.
    "lm_head.bias": "lm_head.decoder.bias is added instead",
}


def settings(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Data2VecConfig` for a whole configuration of data2vec-text, defaults included.

    Settings that transformers lacks (mask, targets, teacher) are those of the published text model of data2vec 1.0.

    Raises:
        ValueError: The model is a decoder.
    """
    if source["is_decoder"] or source["add_cross_attention"]:
        raise ValueError(
            "This data2vec-text model is a decoder (`is_decoder` or `add_cross_attention` is set). Every block of "
            "data2vec attends in both directions: causal and cross attention have no counterpart."
        )
    fields = get_preset("text-base-v1")
    text, layers, pad = fields["text_config"], source["num_hidden_layers"], source["pad_token_id"]
    end = source["eos_token_id"]
    text |= {
        "vocab_size": source["vocab_size"],
        # Theirs counts the rows of the table, of which the first pad + 1 are not positions.
        "max_position_embeddings": source["max_position_embeddings"] - pad - 1,
        "pad_token_id": pad,
        "bos_token_id": source["bos_token_id"],
        "eos_token_id": end[0] if isinstance(end, list | tuple) else end,
        "mask_token_id": source["vocab_size"] - 1,
        "embedding_dropout": source["hidden_dropout_prob"],
        "classifier_dropout": source["classifier_dropout"],
        "local_norm_eps": source["layer_norm_eps"],
        "average_top_k_layers": min(text["average_top_k_layers"], layers),
    }
    return fields | {
        "hidden_size": source["hidden_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": source["num_attention_heads"],
        "intermediate_size": source["intermediate_size"],
        "hidden_act": source["hidden_act"],
        "layer_norm_eps": source["layer_norm_eps"],
        "hidden_dropout": source["hidden_dropout_prob"],
        "mlp_dropout": source["hidden_dropout_prob"],
        "attention_dropout": source["attention_probs_dropout_prob"],
        "activation_dropout": 0.0,
        "initializer_range": source["initializer_range"],
        "tie_word_embeddings": source["tie_word_embeddings"],
    }


def place(name: str) -> Place | Unused:
    """Return where a tensor of a data2vec-text model with a head goes; an unknown name stays as it is."""
    if name in WITHOUT_WEIGHTS:
        return Unused(name, WITHOUT_WEIGHTS[name])
    target, _, part = (rename(name, NAMES) or name).partition("#")
    return Place(target, part or None, SPARE.get(name))
