"""The model of a run: new, or from weights that must fit."""

import pytest
from tiny_run import pretrain, tiny, write_config

from d2v_train.models.build import build_config, build_model
from d2v_train.options.errors import OptionError
from d2v_train.options.files import load_options


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, tiny("audio", max_steps=1))


def test_weights_of_another_width_and_model_of_another_kind(config, tmp_path):
    options = load_options(config, [f"output_dir={tmp_path}"])
    build_model(options, build_config(options)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(OptionError, match="narrow.*shapes"):
        pretrain(config, tmp_path / "run", f"init_from={tmp_path / 'narrow'}", "model.hidden_size=64")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OptionError, match="'bert'"):
        pretrain(config, tmp_path / "run", f"init_from={tmp_path / 'bert'}", "model=null")
