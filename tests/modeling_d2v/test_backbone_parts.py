"""Where an encoder of transformers is masked and read: found by structure, named by hand, refused with a sentence."""

import pytest
import transformers
from backbone_factory import KINDS, SIZES, TEXT, encoder, pretraining
from torch import nn

from modeling_d2v import BackboneError, BackbonePreTrainingConfig
from modeling_d2v.backbone_parts import find_feed_forward, find_layers


FOUND = {
    "roberta": ("encoder.layer", "output.dense", None, None),
    "modernbert": ("layers", "mlp.Wo", None, None),
    "albert": ("encoder.albert_layer_groups", "albert_layers.0.ffn_output", None, None),
    "vit": ("layers", "mlp.fc2", "embeddings.patch_embeddings.projection", None),
    "dinov2_with_registers": (
        "encoder.layer",
        "mlp.fc2",
        "embeddings.patch_embeddings.projection",
        "embeddings.mask_token",
    ),
    "dinov3_vit": ("model.layer", "mlp.down_proj", "embeddings.patch_embeddings", "embeddings.mask_token"),
    "wav2vec2": ("encoder.layers", "feed_forward.output_dense", "encoder", "masked_spec_embed"),
    "wav2vec2-conformer": ("encoder.layers", "ffn2.output_dense", "encoder", "masked_spec_embed"),
}


def config_of(model, **settings):
    return BackbonePreTrainingConfig.of(model, **{"mask_token_id": 49, "end_of_block_targets": False, **settings})


def made(kind, **settings):
    return transformers.AutoModel.from_config(transformers.CONFIG_MAPPING[kind](**settings))


@pytest.mark.parametrize("kind", FOUND)
def test_parts_are_found(kind):
    config = config_of(encoder(kind))
    assert (config.layers, config.ffn_output, config.mask_point, config.mask_vector) == FOUND[kind]
    assert config.modality == KINDS[kind] and config.num_layers == 3 and config.num_masks == 1


def test_a_feed_forward_part_of_the_models_own_width_is_told_from_attention():
    model = encoder("roberta", intermediate_size=32)
    assert find_feed_forward(model, "encoder.layer") == "output.dense"
    assert find_layers(model) == "encoder.layer"


def test_layers_without_a_feed_forward_part_can_give_their_outputs():
    model = encoder("roberta")
    for layer in model.encoder.layer:
        layer.output.dense = nn.Identity()
        layer.attention.output.dense = nn.Identity()
    for layer in model.encoder.layer:
        layer.attention.self.query = layer.attention.self.key = layer.attention.self.value = nn.Linear(32, 16)
    with pytest.raises(BackboneError, match="layers.*32"):
        config_of(model)
    with pytest.raises(BackboneError, match="end_of_block_targets=True"):
        config_of(model, layers="encoder.layer")
    assert config_of(model, layers="encoder.layer", end_of_block_targets=True).ffn_output is None


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: made("llama", **SIZES, **TEXT), "decoder"),
        (lambda: made("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=50), "decoder"),
        (lambda: made("t5", vocab_size=50, d_model=32, d_ff=64, num_layers=2, num_heads=4), "decoder"),
        (lambda: made("wav2vec2-bert", **SIZES), "`input_features`"),
        (lambda: made("audio-spectrogram-transformer", **SIZES), "`input_values`"),
        (lambda: made("convnext", depths=[1, 1], hidden_sizes=[8, 16], num_stages=2), "width"),
    ],
    ids=["decoder", "decoder-of-convolutions", "both", "features", "spectrogram", "no-transformer"],
)
def test_what_is_no_such_encoder_is_refused(make, message):
    with pytest.raises(BackboneError, match=message):
        config_of(make())


def test_encoders_that_shorten_the_sequence_are_refused():
    sizes = dict(conv_dim=[8] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2])
    squeezing = made("sew", **SIZES, **sizes, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4)
    with pytest.raises(BackboneError, match=r"\(1, 4, 32\).*9"):
        pretraining(squeezing)
    with pytest.raises(BackboneError, match="3.*`encoder.layer`.*BertModel.*5"):
        pretraining("bert", num_layers=5)
