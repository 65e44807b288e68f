"""Decoders: noise in masked places, convolutions that keep the size."""

import pytest
import torch
from model_factory import front_end_config, inputs_for, padded_inputs, randomise, tiny_config, version_config

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.decoders import SameConv2d, pooled_noise
from modeling_d2v.objective import normalised_patches


def test_decoder_noise_is_normal_and_a_function_of_step_sample_and_mask():
    like, shape = torch.zeros(1, 64), (4, 3, 200)
    key = {"seed": 1, "step": 2, "sample_ids": torch.tensor([5, 6, 7, 8])}
    noise = pooled_noise(like, shape, key)
    assert noise.shape == (12, 200, 64)
    assert noise.mean().abs() < 0.01 and noise.std() == pytest.approx(1.0, abs=0.01)
    assert noise.pow(4).mean() == pytest.approx(3.0, abs=0.1)  # kurtosis of the normal distribution
    some = pooled_noise(like, (2, 3, 150), {**key, "sample_ids": torch.tensor([8, 6])})
    torch.testing.assert_close(some.view(2, 3, 150, 64), noise.view(4, 3, 200, 64)[[3, 1], :, :150])
    flat = noise.flatten(0, 1)[:600]
    assert (flat @ flat.T / 64 - torch.eye(600)).abs().mean() < 0.12  # 0.1 for independent rows of 64
    for other in ({**key, "step": 3}, {**key, "seed": 2}):
        assert not torch.allclose(pooled_noise(like, shape, other), noise)


@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_convolutions_over_a_grid_keep_its_size(kernel):
    assert SameConv2d(4, 4, kernel, groups=2)(torch.randn(2, 5, 9, 4)).shape == (2, 5, 9, 4)


SHARED = {"decoder_hidden_size": 16, "decoder_groups": 4, "decoder_layers": 2, "decoder_kernel_size": 4}


@pytest.mark.parametrize("shared", [None, SHARED])
@pytest.mark.parametrize("kind", ["convolutions", "transformer", "cross_attention"])
def test_decoders_do_not_see_padding(kind, shared):
    """Of spectrograms, which have fixed positions and may be padded."""
    own = {"decoder_type": kind, "decoder_num_attention_heads": 2, "mask_noise_std": 0.0}
    own |= {"decoder_positions_all": True, "cls_loss_weight": 0.0}
    config = front_end_config("2.0", "spectrogram", audio_config=own, shared_decoder=shared)
    model = randomise(Data2VecForPreTraining(config)).eval()
    batch, alone = padded_inputs("audio")
    with torch.no_grad():
        together, one = model(**batch), model(**alone[1])
        rows = torch.arange(3)[:, None, None].expand_as(together.mask)[together.mask] == 1
        again = model(**alone[1], mask=together.mask[1:2, :, : one.mask.shape[2]])
    assert rows.sum() > 4
    torch.testing.assert_close(together.predictions[rows], again.predictions, atol=1e-5, rtol=1e-5)
    names = {"regression", "shared_regression"} if shared else {"regression"}
    assert together.losses.keys() == names and all(loss > 0 for loss in again.losses.values())
    model.train()(**batch).loss.backward()
    assert all(p.grad is not None for p in model.decoders.parameters())


@pytest.mark.parametrize(
    ("shared", "message"),
    [({"decoder_width": 3}, "decoder_width"), ({**SHARED, "decoder_groups": 3}, "3 groups for 32 channels")],
)
def test_a_shared_decoder_is_checked(shared, message):
    with pytest.raises(ValueError, match=message):
        tiny_config("text", shared_decoder=shared)


@pytest.mark.parametrize(("masked", "everywhere"), [(True, False), (False, True), (True, True)])
def test_positions_are_added_to_the_input_of_the_decoder(masked, everywhere):
    """Where convolutions see one position alone, those of the visible ones tell how often it was added."""
    own = {"decoder_positions_masked": masked, "decoder_positions_all": everywhere, "mask_noise_std": 0.0}
    model = randomise(Data2VecForPreTraining(tiny_config("vision", vision_config=own))).eval()
    encoder, decoder = model.data2vec.modality_encoders["vision"], model.decoders["vision"]
    local = encoder.local_encoder(inputs_for("vision")["pixel_values"], None)
    mask = torch.rand(2, 4, local.features.shape[1]) < 0.5
    with torch.no_grad():
        tokens, hidden = model.data2vec.encode(encoder, local, mask, drop=True)
        restored = decoder.restore(hidden, tokens, mask, None)
        decoder.positions_masked = decoder.positions_all = False
        plain = decoder.restore(hidden, tokens, mask, None)
    times = mask.flatten(0, 1)[..., None].float() * masked + everywhere
    torch.testing.assert_close(restored, plain + encoder.position_encoder.table * times)


def test_positions_that_a_front_end_does_not_have_are_refused():
    for modality, settings in (("audio", {}), ("text", {}), ("vision", {"position_embedding": "none"})):
        with pytest.raises(ValueError, match="fixed sin-cos positions"):
            tiny_config(modality, **{f"{modality}_config": {"decoder_positions_all": True, **settings}})


def test_pixels_are_reconstructed_from_the_predictions():
    own = {"reconstruction_loss_weight": 0.5, "cls_loss_weight": 0.0, "regression_loss_weight": 0.0}
    config = tiny_config("vision", vision_config=own)
    model = randomise(Data2VecForPreTraining(config)).eval()
    batch = inputs_for("vision")
    output = model(**batch)
    patches = normalised_patches(batch["pixel_values"], 8)[:, None].expand(-1, 4, -1, -1)[output.mask]
    error = (model.decoders["vision"].reconstruction(output.predictions) - patches).square().sum() / patches.shape[
        1
    ] ** 0.5
    torch.testing.assert_close(output.loss, 0.5 * error / output.num_items)
    output.loss.backward()
    assert model.decoders["vision"].reconstruction.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="reconstruction_loss_weight"):
        version_config("1.0", "vision", vision_config=own)
