"""data2vec 1.0 in two ways: transformers' encoder under the objective here, and this package's own model.

Both start from the same weights and must go through the same training: losses, targets, predictions and the teacher.
"""

import pytest
import torch
from backbone_factory import NO_DROPOUT, encoder, pretraining
from model_factory import inputs_for, padded_inputs

from modeling_d2v import BackboneForPreTraining, Data2VecConfig, Data2VecForPreTraining
from modeling_d2v.conversion.hf.load import from_transformers


SHARED = (
    "mask_sampler mask_prob mask_length mask_prob_adjust mask_random_prob mask_keep_prob num_masks "
    "average_top_k_layers layer_target_norm mean_target_norm end_of_block_targets loss_beta loss_scale "
    "decoder_projection_layers decoder_projection_ratio"
).split()


def pair(modality: str, **settings) -> tuple[BackboneForPreTraining, Data2VecForPreTraining]:
    """The same student, teacher and head, by the two classes."""
    source = encoder(
        f"data2vec-{modality}", **NO_DROPOUT[modality], **({"layerdrop": 0.0} if modality == "audio" else {})
    )
    if modality == "text":
        # Ours adds the only segment to the positions: one tensor for two, which two gradients would move twice as far.
        source.embeddings.token_type_embeddings.weight.requires_grad_(False)
    theirs = pretraining(source, **({"special_token_ids": [0, 1, 2]} if modality == "text" else {}), **settings)
    theirs.backbone.load_state_dict(source.state_dict())
    if modality == "text":
        theirs.backbone.embeddings.token_type_embeddings.weight.requires_grad_(False)
    plain, _ = from_transformers(source)
    values = plain.config.to_dict()
    values[f"{modality}_config"] |= {name: getattr(theirs.config, name) for name in SHARED}
    values |= {name: getattr(theirs.config, name) for name in ("ema_decay", "ema_end_decay", "ema_anneal_end_step")}
    values.pop("model_type")
    ours = Data2VecForPreTraining(Data2VecConfig(**values))
    ours.data2vec.load_state_dict(plain.state_dict())
    ours.decoders[modality].projection.load_state_dict(theirs.head.projection.state_dict())
    if modality == "vision":  # the encoder of transformers has no mask token
        with torch.no_grad():
            ours.data2vec.modality_encoders["vision"].mask_token.copy_(theirs.mask_token)
    ours.reset_teacher()
    return theirs, ours


def compare(theirs, ours, inputs, step, tolerance=1e-5):
    key = {"sample_ids": torch.arange(len(next(iter(inputs.values())))), "step": step}
    one, other = theirs(**inputs, **key), ours(**inputs, **key)
    assert torch.equal(one.mask, other.mask)
    for name in ("loss", "targets", "predictions", "target_std", "masked_fraction"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=tolerance, rtol=tolerance)
    return one, other


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_training_is_the_same(modality):
    models = pair(modality)
    optimizers = [
        torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.05) for model in models
    ]
    losses = []
    for step in range(1, 5):
        outputs = compare(*(model.train() for model in models), inputs_for(modality, 3, seed=step), step)
        for model, optimizer, output in zip(models, optimizers, outputs, strict=True):
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            model.update_teacher(step)
        losses.append(outputs[0].loss.item())
    assert len(set(losses)) == 4


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_feed_forward_and_block_targets_are_the_same(modality):
    theirs, ours = pair(modality, end_of_block_targets=modality != "vision", average_top_k_layers=2)
    compare(theirs.eval(), ours.eval(), inputs_for(modality, 3), 1)


def test_padded_texts_are_the_same():
    theirs, ours = pair("text", mask_prob=0.4)
    batch, _ = padded_inputs("text")
    compare(theirs.eval(), ours.eval(), batch, 1)
