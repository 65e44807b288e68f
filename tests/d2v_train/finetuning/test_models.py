"""Which model is fine-tuned: a preset, a folder, overrides, from scratch."""

import pytest
import torch
from model_factory import tiny_config
from transformers import AutoModelForSequenceClassification

from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.models import load_config, load_model
from modeling_d2v import Data2VecForPreTraining


def test_a_preset_is_a_configuration():
    config = load_config(ModelArguments(config_name="text-base", from_scratch=True), num_labels=3)
    assert (config.num_labels, config.hidden_size, config.modalities) == (3, 768, ["text"])


def test_overrides_reach_sub_configurations(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    model_args = ModelArguments(str(tmp_path))
    config = load_config(model_args, drop_path_rate=0.3, num_labels=7, text_config={"embedding_dropout": 0.2})
    assert (config.drop_path_rate, config.num_labels, config.text_config.embedding_dropout) == (0.3, 7, 0.2)
    assert load_config(model_args, drop_path_rate=None).drop_path_rate == 0.0
    with pytest.raises(ValueError, match="'embeding_dropout'"):
        load_config(model_args, text_config={"embeding_dropout": 0.2})
    with pytest.raises(ValueError, match="drop_path_rate"):
        load_config(model_args, drop_path_rate=3.0)
    with pytest.raises(ValueError, match="embedding_dropout"):
        load_config(model_args, text_config={"embedding_dropout": 3.0})
    with pytest.raises(ValueError, match="runs/nowhere.*config.json"):
        load_config(ModelArguments("runs/nowhere"))


def test_from_scratch_ignores_the_weights(tmp_path):
    pretrained = Data2VecForPreTraining(tiny_config("text"))
    pretrained.save_pretrained(tmp_path)
    name = "encoder.blocks.0.mlp.fc1.weight"
    wanted = pretrained.state_dict()[f"data2vec.{name}"]
    for from_scratch in (False, True):
        model_args = ModelArguments(str(tmp_path), from_scratch=from_scratch)
        model = load_model(AutoModelForSequenceClassification, model_args, load_config(model_args))
        assert torch.equal(model.data2vec.state_dict()[name], wanted) != from_scratch
