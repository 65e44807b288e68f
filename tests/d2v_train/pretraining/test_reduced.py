"""A reduced configuration keeps what decides what is learned, and is small."""

import pytest

from d2v_train.models.build import build_config
from d2v_train.options.files import load_options, pretraining_configs
from d2v_train.pretraining.reduced import HEADS, SIDE, VOCABULARY, WIDTH, reduced_overrides


SIZES = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "embed_dim"}
# The id of the mask token is the last one of the vocabulary.
SIZES_OF_PARTS = {
    "prenet_depth", "decoder_hidden_size", "average_top_k_layers", "conv_dim", "image_size", "patch_size",
    "vocab_size", "max_position_embeddings", "mask_token_id",
}  # fmt: skip


@pytest.mark.parametrize("name", pretraining_configs())
def test_objective_masks_and_schedule_are_those_of_the_configuration(name):
    full = load_options(name, ["output_dir=x"])
    small = load_options(name, reduced_overrides(full, steps=4, output_dir="y"))
    assert small.output_dir == "y" and small.cpu
    for field in ("lr", "curve", "betas", "weight_decay", "min_lr"):
        assert getattr(small.optim, field) == getattr(full.optim, field)
    before, after = build_config(full), build_config(small)
    assert after.hidden_size <= WIDTH and after.num_attention_heads <= HEADS
    for modality in full.modalities:
        one, two = (config.modality_config(modality).to_dict() for config in (before, after))
        assert {key for key in one if one[key] != two[key]} <= SIZES | SIZES_OF_PARTS
        assert two.get("image_size", 0) <= SIDE and two.get("vocab_size", 0) <= VOCABULARY
        assert getattr(small, f"{modality}").dataset["max_samples"] == 200
