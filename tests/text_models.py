"""Text models of transformers with random weights."""

import torch
import transformers
from model_factory import randomise


MODELS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)


LABELS = 3


SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=42,
    layer_norm_eps=1e-5,
)


def theirs(model: str, sizes: dict = SMALL, **overrides) -> torch.nn.Module:
    """A model of transformers whose every tensor is random, those that start at 0 or 1 included."""
    if "id2label" not in overrides:
        overrides["num_labels"] = 2 if model == "ForQuestionAnswering" else LABELS
    config = transformers.Data2VecTextConfig(**{**sizes, **overrides})
    return randomise(getattr(transformers, f"Data2VecText{model}")(config)).eval()
