"""Checks of configurations: unknown keys, wrong types, and what cannot work, in sentences."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from model_factory import tiny_config

from modeling_d2v import Data2VecConfig
from modeling_d2v.configuration_checks import logger as checks_logger


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("hiden_size", "hidden_size"), ("num_layers", "num_hidden_layers"), ("ema_decays", "ema_decay")],
)
def test_unknown_keys_name_the_nearest_valid_one(key, nearest):
    with pytest.raises(ValueError, match=f"`{key}`.*`{nearest}`"):
        Data2VecConfig(**{key: 3})


def test_unknown_keys_of_a_sub_configuration_name_the_nearest_valid_one():
    with pytest.raises(ValueError, match="AudioConfig.*`mask_probability`.*`mask_prob`"):
        Data2VecConfig(audio_config={"mask_probability": 0.5})


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        Data2VecConfig(hidden_size="wide")


def test_keys_of_a_file_that_are_no_fields_are_kept_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(checks_logger, "propagate", True)
    config = tiny_config()
    config.hidden_sizes, config.audio_config.mask_probs = [1, 2], 0.5
    config.save_pretrained(tmp_path)
    again = Data2VecConfig.from_pretrained(tmp_path)
    assert again.hidden_sizes == [1, 2] and again.audio_config.mask_probs == 0.5
    assert "`hidden_sizes`" in caplog.text and "`mask_probs`" in caplog.text
    with pytest.raises(ValueError, match="`hiden_size`.*`hidden_size`"):
        Data2VecConfig(hiden_size=3)
