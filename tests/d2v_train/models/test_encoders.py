"""Features of foreign encoders: the mean of real tokens."""

import pytest
import torch
from backbone_factory import KINDS, inputs_of, pretraining
from model_factory import padded_inputs

from d2v_train.models.encoders import observed_encoder


def test_features_of_images_leave_out_class_token_and_registers():
    model = pretraining("dinov2_with_registers").eval()
    inputs = inputs_of("dinov2_with_registers")
    wanted = model.trained_encoder()(**inputs).last_hidden_state[:, 5:].mean(dim=1)
    torch.testing.assert_close(observed_encoder(model)(**inputs).pooler_output, wanted)


@pytest.mark.parametrize("kind", ["roberta", "wav2vec2"])
def test_features_are_the_mean_of_real_tokens(kind):
    model = pretraining(kind).eval()
    observed, plain = observed_encoder(model), model.trained_encoder()
    batch, alone = padded_inputs(KINDS[kind])
    pooled = observed(**batch).pooler_output
    for row, sample in zip(pooled, alone, strict=True):
        wanted = plain(**sample).last_hidden_state.mean(dim=1)[0]
        torch.testing.assert_close(row, wanted, atol=2e-5, rtol=1e-4)
