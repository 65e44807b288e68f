"""Settings of a probe: its modalities are those of the model, and wrong values are refused."""

import dataclasses

import pytest

from d2v_train.inputs.modalities import DATA_KINDS
from d2v_train.options.errors import OptionError
from d2v_train.probing.settings import ProbeSettings


def test_the_modalities_of_the_command_are_those_that_can_be_probed():
    (field,) = [field for field in dataclasses.fields(ProbeSettings) if field.name == "modality"]
    assert set(field.metadata["choices"]) == set(DATA_KINDS)


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"few": 0}, {"max_samples": -1}, {"neighbours": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        ProbeSettings(model="m", modality="audio", **wrong)
