"""The configuration of a foreign encoder: found in the encoder, or given."""

import pytest
import torch
import transformers
from backbone_factory import SIZES, VISION, encoder, pretraining
from huggingface_hub.errors import StrictDataclassError

from modeling_d2v import BackboneError, BackbonePreTrainingConfig


def config_of(model, **settings):
    return BackbonePreTrainingConfig.of(model, **{"mask_token_id": 49, "end_of_block_targets": False, **settings})


def made(kind, **settings):
    return transformers.AutoModel.from_config(transformers.CONFIG_MAPPING[kind](**settings))


def test_parts_can_be_named():
    model = encoder("roberta")
    config = config_of(model, layers="encoder.layer", ffn_output="attention.output.dense")
    assert config.ffn_output == "attention.output.dense"
    with pytest.raises(BackboneError, match="`blocks`.*`layers`.*`encoder.layer`"):
        config_of(model, layers="blocks")
    with pytest.raises(BackboneError, match="`fc2`.*`ffn_output`.*`attention.self.query`"):
        config_of(model, ffn_output="fc2")
    with pytest.raises(BackboneError, match="`patches`.*`mask_point`.*`embeddings.patch_emb"):
        config_of(encoder("vit"), mask_point="patches")
    with pytest.raises(BackboneError, match="`mask_probability`.*mask_prob"):
        config_of(model, mask_probability=0.5)


def test_text_needs_a_mask_token():
    with pytest.raises(BackboneError, match="RobertaModel.*`tokenizer`"):
        BackbonePreTrainingConfig.of(encoder("roberta"))
    # transformers makes one of special tokens where there are no files.
    empty = transformers.RobertaTokenizer()
    with pytest.raises(BackboneError, match="special"):
        BackbonePreTrainingConfig.of(encoder("roberta"), empty)


def test_sizes_of_texts_images_and_recordings():
    text = config_of(encoder("roberta"))
    assert (text.vocab_size, text.pad_token_id, text.max_position_embeddings) == (50, 1, 40)
    assert text.special_token_ids == [0, 1, 2] and text.modality_config("text") is text
    assert config_of(encoder("bert")).max_position_embeddings == 42
    image = config_of(encoder("vit", image_size=[32, 32]))
    assert image.image_size == 32 and image.grid_size(32, 32) == (4, 4) and image.num_channels == 3
    with pytest.raises(BackboneError, match="equal"):
        config_of(made("vit", **SIZES, **VISION | {"image_size": [32, 64]}))
    # As the convolution has it: what is left over at the edge is not seen.
    assert pretraining(encoder("clip_vision_model", image_size=36)).config.grid_size(36, 36) == (4, 4)
    model = encoder("wav2vec2")
    recording = config_of(model)
    lengths = torch.arange(300, 5000, 37)
    assert torch.equal(recording.num_frames(lengths), model._get_feat_extract_output_lengths(lengths).clamp(min=0))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(average_top_k_layers=4), "average_top_k_layers"),
        (dict(mask_prob=1.5), "mask_prob"),
        (dict(mask_sampler="block"), "mask_sampler"),
        (dict(ema_decay=2.0), "ema_decay"),
        (dict(num_layers="3"), "num_layers"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        config_of(encoder("roberta"), **settings)
