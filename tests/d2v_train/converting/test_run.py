"""What `d2v convert` reads before it converts; `programs/test_convert*.py` test the conversions themselves."""

import pytest

from d2v_train.converting.run import WEIGHT_DTYPES, read_settings
from d2v_train.programs.convert import build_parser
from modeling_d2v.conversion.fairseq.layouts import FAIRSEQ_KINDS
from modeling_d2v.modalities import MODALITIES


def test_the_choices_of_the_command_are_what_the_converter_knows():
    choices = {action.dest: action.choices for action in build_parser()._actions}
    assert choices["dtype"] == tuple(WEIGHT_DTYPES) and choices["kind"] == FAIRSEQ_KINDS
    assert choices["modality"] == tuple(MODALITIES)


@pytest.mark.parametrize("text, said", [("[1]", "contains a list"), ("{", "not valid JSON")])
def test_settings_are_a_dictionary_in_json(text, said, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_settings(str(path))
    path.write_text('{"task": {"_name": "x"}}')
    assert read_settings(str(path)) == {"task": {"_name": "x"}}
