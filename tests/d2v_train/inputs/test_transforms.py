"""Transforms: shapes and values, purity in the seed, concatenation and packing."""

import numpy as np
import pytest
import torch
from PIL import Image

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.transforms import build_transform
from modeling_d2v import Data2VecConfig


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return {"id": 3, "image": Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))}


DOCUMENTS = [f"document {word} speaks of {word} and of nothing else" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DOCUMENTS * 3, 320)


@pytest.fixture(scope="module")
def config():
    return Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config={"image_size": 16, "patch_size": 4, "num_channels": 1},
        text_config={"vocab_size": 320, "max_position_embeddings": 34},
    )


def test_what_is_not_given_follows_from_the_model(config, tokenizer):
    vision = build_transform("vision", None, config)
    assert vision(picture(20, 18))["pixel_values"].shape == (1, 16, 16)
    audio = build_transform("audio", {"crop_seconds": [0.001, 0.002]}, config)
    values = audio({"id": 0, "audio": np.arange(100, dtype=np.float32)})["input_values"]
    assert config.modality_config("audio").num_frames(len(values)) == 2
    text = build_transform("text", None, config, tokenizer)
    assert text.max_length == 34  # the whole table: the model has rows for the pad id beside these
    packed = text.prepare(RawDataset("text", Table(DOCUMENTS * 2)))
    item = text(packed[1])
    assert item["input_ids"].shape == (34,) and item["input_ids"].dtype == torch.int64 and item["id"] == 1


def test_wrong_options_are_explained(config):
    with pytest.raises(ValueError, match="'crop_scal'.*'crop_scale'"):
        build_transform("vision", {"crop_scal": 0.5}, config)
    with pytest.raises(ValueError, match="crop_scale"):
        build_transform("vision", {"crop_scale": [0.9, 0.4]}, config)
    with pytest.raises(ValueError, match="mean"):
        build_transform("vision", {"mean": [0.5, 0.5, 0.5]}, config)
    with pytest.raises(ValueError, match="crop_scale"):
        build_transform("vision", {"crop_scale": "big"}, config)
    with pytest.raises(ValueError, match="speed"):
        build_transform("audio", {"speed": [1.1, 0.9]}, config)
    with pytest.raises(ValueError, match="color_jitter.*2.*0.*1"):
        build_transform("vision", {"color_jitter": 2}, config)
    with pytest.raises(ValueError, match="flip"):
        build_transform("vision", {"flip": "yes"}, config)
    with pytest.raises(ValueError, match="min_samples.*0"):
        build_transform("audio", {"min_samples": 0}, config)
    with pytest.raises(ValueError, match="std"):
        build_transform("vision", {"std": 0}, config)
    with pytest.raises(ValueError, match="tokenizer"):
        build_transform("text", None, config)
