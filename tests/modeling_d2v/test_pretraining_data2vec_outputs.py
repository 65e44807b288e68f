"""Outputs of pretraining models as callers of transformers ask for them."""

import pytest
import torch
from backbone_factory import inputs_of, pretraining
from model_factory import MODALITIES, VERSIONS, inputs_for, version_config

from modeling_d2v import Data2VecForPreTraining


CASES = [(version, modality) for version in VERSIONS for modality in MODALITIES]


def make(version, modality, **overrides):
    torch.manual_seed(0)
    return Data2VecForPreTraining(version_config(version, modality, **overrides)).eval()


def flat(values):
    """Tensors of an output, in order."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif value is not None:
            yield from flat(value.values() if isinstance(value, dict) else value)


@pytest.mark.parametrize(("version", "modality"), CASES)
def test_states_of_the_student_are_returned_when_asked_for(version, modality):
    model, inputs = make(version, modality), inputs_for(modality)
    model.set_attn_implementation("eager")
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None
    asked = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert asked.loss == plain.loss
    extra = model.config.modality_config(modality).num_extra_tokens
    rows = asked.mask.flatten(0, 1)
    length = extra + int((~rows).sum(1).max() if version != "1.0" else rows.shape[1])
    assert [tuple(state.shape) for state in asked.hidden_states] == [(len(rows), length, 32)] * 3
    assert [tuple(weights.shape) for weights in asked.attentions] == [(len(rows), 4, length, length)] * 2
    assert len(list(flat(model(**inputs, return_dict=False)))) + 5 == len(
        list(flat(model(**inputs, return_dict=False, output_hidden_states=True, output_attentions=True)))
    )


def test_states_can_be_asked_for_in_the_configuration_and_have_gradients():
    model = make("2.0", "vision").train()
    model.config.output_hidden_states = True
    output = model(**inputs_for("vision"))
    output.hidden_states[0].retain_grad()
    output.loss.backward()
    assert output.hidden_states[0].grad.abs().sum() > 0


def test_states_of_the_teacher_are_not_among_them():
    model, inputs = make("2.0", "audio"), inputs_for("audio")
    expected = model(**inputs, output_hidden_states=True).hidden_states
    with torch.no_grad():
        for weight in model.teacher.parameters():
            weight.add_(1.0)
    given = model(**inputs, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


@pytest.mark.parametrize("kind", ["roberta", "vit", "wav2vec2"])
def test_models_over_other_encoders_return_states_and_name_their_input(kind):
    model, inputs = pretraining(kind).eval(), inputs_of(kind)
    assert model.main_input_name in inputs
    output = model(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == 4 and output.loss == model(**inputs).loss


@pytest.mark.parametrize(("version", "modality"), CASES)
def test_an_evaluation_call_repeated_is_the_same_call(version, modality):
    dropout = dict(hidden_dropout=0.2, attention_dropout=0.2, drop_path_rate=0.2, layerdrop=0.2)
    model, inputs = make(version, modality, **dropout), inputs_for(modality, 5)
    with torch.no_grad():
        first = list(flat(model(**inputs).values()))
        torch.manual_seed(1)
        again = list(flat(model(**inputs, return_dict=False)))
    assert len(first) == len(again) > 8
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    other = model(**inputs_for(modality, 5, seed=1)).mask
    assert not torch.equal(other, model(**inputs).mask)
