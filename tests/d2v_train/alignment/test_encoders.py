"""Models of a study are named on the command line; untrained ones are what a run starts from."""

import pytest
import torch
import yaml
from probed_model import save_model

from d2v_train.alignment.encoders import ModelPart, StudiedModel, initial_encoder, open_encoder, parse_models
from d2v_train.models.build import build_model
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options
from modeling_d2v import Data2VecConfig


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("run") / "final")


def test_a_joint_model_serves_all_its_modalities(saved):
    (model,) = parse_models([f"joint 2={saved}"])
    assert set(model.parts) == {"text", "vision", "audio"}
    assert (model.kind, model.family, model.seed) == ("joint", "joint", 2)


def test_models_of_one_modality_each(saved, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(saved)
    (model,) = parse_models([f"pair=vision:{saved},text:{other}"])
    assert {name: part.source for name, part in model.parts.items()} == {"vision": str(saved), "text": str(other)}
    assert (model.kind, model.family, model.seed) == ("separate", "pair", None)


@pytest.mark.parametrize(
    "texts, sentence",
    [
        (["joint"], "is not NAME=PLACE"),
        (["=place"], "is not NAME=PLACE"),
        (["a={saved}", "a={saved}"], "Two models are called 'a'"),
        (["a=nowhere"], "nowhere holds no model"),
    ],
)
def test_mistakes(saved, texts, sentence):
    with pytest.raises(OptionError, match=sentence):
        parse_models([text.format(saved=saved) for text in texts])


def test_the_seed_of_a_run_is_that_of_its_options(saved):
    (saved.parent / "run.yaml").write_text(yaml.safe_dump({"seed": 7}))
    try:
        assert StudiedModel("joint 2", {"text": ModelPart("text", str(saved))}).seed == 7
    finally:
        (saved.parent / "run.yaml").unlink()


def test_untrained_weights_are_those_a_run_starts_from(saved, tmp_path):
    config = Data2VecConfig.from_pretrained(saved)
    options = build_options({"output_dir": str(tmp_path), "seed": 3, "vision": {}, "text": {}, "audio": {}})
    started = build_model(options, config).trained_encoder("student").state_dict()
    untrained = initial_encoder(config, 3).state_dict()
    assert started.keys() == untrained.keys()
    assert all(torch.equal(started[name], untrained[name]) for name in started)
    other = initial_encoder(config, 4).state_dict()
    assert any(not torch.equal(other[name], untrained[name]) for name in other)


def test_trained_weights_are_loaded(saved):
    encoder, _ = open_encoder(ModelPart("vision", str(saved)))
    random, _ = open_encoder(ModelPart("vision", str(saved), seed=0))
    name = next(name for name, value in encoder.state_dict().items() if value.std() > 0 and value.ndim > 1)
    assert not torch.equal(encoder.state_dict()[name], random.state_dict()[name])


def test_a_stamp_changes_with_the_weights(saved, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = ModelPart("text", str(tmp_path)).stamp()
    (tmp_path / "config.json").write_text("{ }")
    assert ModelPart("text", str(tmp_path)).stamp() != before
