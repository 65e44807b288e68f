"""The exported image processor equals the transform of training in its evaluation mode."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from d2v_train.data.decoding import decode_image
from d2v_train.data.records import open_dataset
from d2v_train.inputs.processors import image_processor
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


def test_the_range_of_deep_pictures_is_exported(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (30, 40), dtype=np.uint16)
    (tmp_path / "data").mkdir()
    Image.fromarray(pixels).save(tmp_path / "data" / "deep.png")
    dataset = open_dataset("vision", str(tmp_path / "data"), value_range=[500, 3000])
    transform = VisionTransform(24, 3, train=False)
    transform.prepare(dataset)
    config = Data2VecConfig(modalities=["vision"], vision_config={"image_size": 24, "patch_size": 4})
    image_processor(config, transform).save_pretrained(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    trained_on = transform(dataset[0])["pixel_values"]
    for picture in (Image.fromarray(pixels), pixels):
        exported = processor(picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(exported, trained_on, atol=1e-5, rtol=0)
    processor.value_range = None
    other = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    assert (other - trained_on).abs().mean() > 0.05
