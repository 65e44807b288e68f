"""Every option has its documentation, also those of configurations and mappings."""

import dataclasses
import re

import pytest

from d2v_train.options import documentation
from d2v_train.options.documentation import LISTED_ELSEWHERE
from d2v_train.options.source import SET_BY_RUN, Expression
from modeling_d2v.backbone_configuration import BackbonePreTrainingConfig
from modeling_d2v.configuration_data2vec import MODALITY_CONFIGS, Data2VecConfig


EVERY = {option.name: option for option in documentation.options()}


def test_documentation_says_something():
    for name, option in EVERY.items():
        least = 12 if option.listed else 25
        assert len(option.doc) >= least and option.doc[-1] in ".`)", f"{name}: {option.doc!r}"
        assert not re.search(r"likewise|the same\.$", option.doc), name


@pytest.mark.parametrize("prefix", ["model", *(f"model.{name}_config" for name in MODALITY_CONFIGS)])
def test_fields_of_the_model_are_those_of_its_configuration(prefix):
    config = Data2VecConfig if prefix == "model" else MODALITY_CONFIGS[prefix[len("model.") : -len("_config")]]
    listed = {name.rpartition(".")[2]: option for name, option in EVERY.items() if name.rpartition(".")[0] == prefix}
    own = {field.name: field.default for field in dataclasses.fields(config) if field.name in config.own_fields()}
    own = {name: default for name, default in own.items() if not name.startswith("_")}
    assert listed.keys() - {"preset"} == own.keys()
    for name, default in own.items():
        shown = listed[name].default
        if shown is not SET_BY_RUN:
            known = eval(shown) if isinstance(shown, Expression) else shown
            assert known == default, name


def test_fields_of_a_backbone_are_those_of_its_configuration():
    names = {option.name for option in documentation.backbone_options()}
    assert names == {f"model.{name}" for name in BackbonePreTrainingConfig.own_fields()}


def test_keys_of_mappings_are_those_that_the_code_takes():
    assert {"text.transform.pack", "vision.transform.crop_scale", "audio.transform.crop_seconds"} <= EVERY.keys()
    assert {f"{name}.dataset.max_samples" for name in MODALITY_CONFIGS} <= EVERY.keys()
    assert not {name for name in EVERY if name.endswith((".train", ".stream_block", "text.transform.tokenizer"))}
    assert LISTED_ELSEWHERE.keys() - {"model"} <= EVERY.keys()
