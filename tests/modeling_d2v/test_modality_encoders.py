"""From local features to tokens: what is dropped, what is hidden in place, and what comes in front."""

import pytest
import torch
from model_factory import inputs_for, randomise, tiny_config, version_config

from modeling_d2v import Data2VecModel
from modeling_d2v.local_encoders import LocalFeatures
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.modality_encoders import LOCAL_ENCODERS


def encoder_of(config, modality):
    return randomise(Data2VecModel(config)).eval().modality_encoders[modality]


def test_every_front_end_has_its_local_encoder():
    assert {name: set(LOCAL_ENCODERS[name]) for name in MODALITIES} == {
        name: set(modality.front_ends) for name, modality in MODALITIES.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_visible_tokens_are_those_of_the_whole_sequence(modality):
    """What is dropped leaves the others as they are, except where convolutions over neighbours tell positions."""
    encoder = encoder_of(version_config("2.0", modality, **{f"{modality}_config": {"conv_pos_depth": 0}}
                                        if modality == "audio" else {}), modality)  # fmt: skip
    ((_, values),) = inputs_for(modality).items()
    local = encoder.local_encoder(values, None)
    size = local.features.shape[1]
    mask = torch.rand(2, 3, size) < 0.5
    whole = encoder.contextualize(local).hidden_states
    kept = encoder.contextualize(local, mask, drop=True)
    extra = encoder.num_extra
    assert kept.hidden_states.shape[0] == 6
    for row in range(6):
        visible = torch.cat([torch.ones(extra, dtype=torch.bool), ~mask.flatten(0, 1)[row]])
        found = kept.hidden_states[row][: int(visible.sum())]
        torch.testing.assert_close(found, whole[row // 3][visible])
    if kept.keep is not None:
        assert kept.keep.sum(dim=1).tolist() == (~mask).sum(dim=2).flatten().tolist()


@torch.no_grad()
def test_masked_tokens_are_replaced_by_one_vector_in_their_places():
    encoder = encoder_of(version_config("1.0", "vision"), "vision")
    local = LocalFeatures(torch.randn(2, 16, 32), None, (4, 4))
    mask = torch.zeros(2, 1, 16, dtype=torch.bool)
    mask[:, :, 3:7] = True
    first = encoder.contextualize(local, mask).hidden_states
    other = encoder.contextualize(
        LocalFeatures(torch.where(mask[:, 0, :, None], 7.0, local.features), None, (4, 4)), mask
    ).hidden_states
    assert torch.equal(first, other)
    hidden = first[:, encoder.num_extra :][mask[:, 0]]
    torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden))
    plain = encoder.contextualize(local).hidden_states[:, encoder.num_extra :]
    assert torch.equal(first[:, encoder.num_extra :][~mask[:, 0]], plain[~mask[:, 0]])


@torch.no_grad()
def test_a_mask_of_everything_leaves_one_column_that_is_not_kept():
    encoder = encoder_of(tiny_config("text"), "text")
    local = encoder.local_encoder(**{"input_ids": inputs_for("text")["input_ids"], "attention_mask": None})
    tokens = encoder.contextualize(local, torch.ones(2, 1, 20, dtype=torch.bool), drop=True)
    assert tokens.hidden_states.shape[1] == encoder.num_extra + 1 and not tokens.token_mask.any()
