"""The table of modalities and front ends, and the tables beside it that have an entry for each of them."""

import pytest
from model_factory import MODALITIES as TESTED
from model_factory import tiny_config

from modeling_d2v.backbone_inputs import BACKBONE_INPUTS
from modeling_d2v.configuration_data2vec import MODALITY_CONFIGS
from modeling_d2v.decoders import CONVOLUTIONS
from modeling_d2v.masking import SAMPLERS
from modeling_d2v.modalities import MODALITIES, modality_of_input
from modeling_d2v.modality_encoders import LOCAL_ENCODERS


FRONT_ENDS = [(name, front_end) for name, modality in MODALITIES.items() for front_end in modality.front_ends]


def test_all_tables_have_the_same_modalities_and_front_ends():
    names = list(MODALITIES)
    assert names == list(MODALITY_CONFIGS) == list(BACKBONE_INPUTS) == list(LOCAL_ENCODERS) == list(TESTED)
    for name, modality in MODALITIES.items():
        assert list(modality.front_ends) == list(LOCAL_ENCODERS[name])
        assert MODALITY_CONFIGS[name].modality == name
        assert MODALITY_CONFIGS[name].base_config_key == f"{name}_config"
        assert modality_of_input(modality.input_name) == name


@pytest.mark.parametrize(("name", "front_end"), FRONT_ENDS)
def test_a_front_end_has_a_decoder_and_masks(name, front_end):
    traits = MODALITIES[name].front_ends[front_end]
    assert traits.geometry in CONVOLUTIONS
    assert "random" in traits.samplers
    for sampler in SAMPLERS:
        assert (sampler in traits.samplers) == (SAMPLERS[sampler].geometry in (None, traits.geometry))


@pytest.mark.parametrize("name", TESTED)
def test_the_front_end_is_the_first_one_unless_it_is_named(name):
    config = tiny_config(name)
    first = next(iter(MODALITIES[name].front_ends))
    assert config.modality_config(name).front_end == first
    assert config.modality_config(name).traits is MODALITIES[name].front_ends[first]
    assert tiny_config(name, **{f"{name}_config": {"front_end": first}}).to_dict() == config.to_dict()
    with pytest.raises(ValueError, match="`front_end` is 'pixels'; it must be one of '" + first):
        tiny_config(name, **{f"{name}_config": {"front_end": "pixels"}})


def test_masks_that_do_not_fit_the_geometry_are_refused():
    for name, sampler in (("text", "block"), ("audio", "inverse_block"), ("vision", "span")):
        with pytest.raises(ValueError, match="with the .* front end, whose tokens form a .*, it must be one of"):
            tiny_config(name, **{f"{name}_config": {"mask_sampler": sampler}})


def test_the_input_of_no_modality():
    assert modality_of_input("labels") is None
