"""The exported input preparation equals that of training's evaluation mode."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from d2v_train.data.decoding import decode_image
from d2v_train.inputs.processor_files import input_files
from d2v_train.inputs.processors import image_processor
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.vision import VisionTransform
from modeling_d2v import Data2VecConfig


def picture(width, height, mode):
    random = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65535, (height, width), dtype=np.uint16))
    image = Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(random.integers(0, 255, (height, width), dtype=np.uint8)))
    return image.convert(mode)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "mode, size",
    [
        *((mode, (45, 30)) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "I;16")),
        *(("RGB", size) for size in ((30, 47), (20, 33), (24, 24), (7, 9))),
    ],
)
def test_image_processor_does_what_the_transform_does(tmp_path, channels, mode, size):
    config = Data2VecConfig(modalities=["vision"], vision_config={"image_size": 24, "patch_size": 4,
                                                                  "num_channels": channels})  # fmt: skip
    transform = VisionTransform(24, channels, mean=0.4, std=[0.2] * channels, train=False)
    image_processor(config, transform).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = picture(*size, mode)
    exported = processor(image, return_tensors="pt")["pixel_values"]
    trained_on = transform({"id": 0, "image": decode_image(image, channels)})["pixel_values"]
    torch.testing.assert_close(exported[0], trained_on, atol=1e-5, rtol=0)


def test_input_files_may_be_no_texts(monkeypatch):
    tokenizer = build_tokenizer(["some words"] * 9, vocab_size=270)
    save = type(tokenizer).save_pretrained

    def save_more(self, folder, **options):
        (Path(folder) / "vocabulary.model").write_bytes(b"\xff\x00")
        (Path(folder) / "templates").mkdir()
        return save(self, folder, **options)

    monkeypatch.setattr(type(tokenizer), "save_pretrained", save_more)
    files = input_files(Data2VecConfig(modalities=["text"]), {"text": None}, tokenizer)
    assert files["vocabulary.model"] == b"\xff\x00" and b'"added_tokens"' in files["tokenizer.json"]
    assert "templates" not in files
