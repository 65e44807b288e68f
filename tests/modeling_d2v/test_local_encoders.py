"""Local encoders: as many features as the configuration says, each from its own part of the input."""

import pytest
import torch
from model_factory import MODALITIES, SPECTROGRAM, inputs_for, randomise, tiny_config

from modeling_d2v import Data2VecModel
from modeling_d2v.local_encoders import AudioLocalEncoder, TextLocalEncoder, VisionLocalEncoder, check_token_ids


def local_encoder(modality, **settings):
    model = randomise(Data2VecModel(tiny_config(modality, **{f"{modality}_config": settings})))
    return model.modality_encoders[modality].local_encoder.eval()


@torch.no_grad()
def test_a_patch_becomes_one_token_wherever_it_lies():
    encoder = local_encoder("vision")
    pixels = torch.randn(1, 3, 32, 32)
    features = encoder(pixels, None)
    assert features.grid == (4, 4) and features.features.shape == (1, 16, 32)
    moved = encoder(pixels.roll((8, 16), dims=(2, 3)), None).features.view(1, 4, 4, 32)
    torch.testing.assert_close(moved, features.features.view(1, 4, 4, 32).roll((1, 2), dims=(1, 2)))


@torch.no_grad()
def test_a_frame_hears_its_window_alone():
    encoder = local_encoder("audio")
    waves = torch.randn(1, 4000)
    changed = waves.clone()
    changed[:, 5 * 320 + 400 :] += 1.0  # behind the window of frame 5
    first, second = (encoder(wave, None).features for wave in (waves, changed))
    assert first.shape[1] == (4000 - 400) // 320 + 1
    torch.testing.assert_close(first[:, :6], second[:, :6])
    assert not torch.isclose(first[:, 6:], second[:, 6:]).all()


@torch.no_grad()
def test_the_token_mask_of_speech_has_a_frame_for_each_whole_window():
    mask = torch.arange(4000)[None] < torch.tensor([[4000], [1040], [400]])
    found = local_encoder("audio")(torch.randn(3, 4000), mask.long()).token_mask
    assert found.sum(dim=1).tolist() == [12, 3, 1]


@torch.no_grad()
def test_a_token_of_text_is_its_word_and_its_place():
    encoder = local_encoder("text")
    ids = torch.tensor([[5, 6, 5, 1, 1]])
    out = encoder(ids, None)
    assert out.token_mask.tolist() == [[True, True, True, False, False]]
    assert not torch.allclose(out.features[0, 0], out.features[0, 2])
    other = encoder(torch.tensor([[5, 9, 5, 1, 1]]), None).features
    assert torch.equal(out.features[0, [0, 2]], other[0, [0, 2]]) and not torch.equal(out.features[0, 1], other[0, 1])
    assert encoder(ids[:, :3], None).token_mask is None


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_first_layer_reads_the_input_and_the_extractor_belongs_to_the_encoder(modality):
    encoder = local_encoder(modality)
    kinds = {"text": TextLocalEncoder, "vision": VisionLocalEncoder, "audio": AudioLocalEncoder}
    assert type(encoder) is kinds[modality]
    seen = []
    encoder.first_layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ((_, values),) = inputs_for(modality).items()
    encoder(values, None)
    assert len(seen) == 1 and seen[0].numel() == values.numel()
    assert {id(p) for p in encoder.extractor.parameters()} <= {id(p) for p in encoder.parameters()}


def test_ids_without_a_row_are_named():
    table = torch.nn.Embedding(10, 4)
    check_token_ids(torch.tensor([[0, 9]]), table)
    for wrong in (10, -1):
        with pytest.raises(ValueError, match=f"{wrong};.*0 to 9"):
            check_token_ids(torch.tensor([[3, wrong]]), table)


def test_the_front_end_decides_the_encoder():
    assert type(local_encoder("audio", **SPECTROGRAM)) is not AudioLocalEncoder
