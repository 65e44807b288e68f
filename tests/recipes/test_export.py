"""The exported input preparation equals that of training's evaluation mode."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from modeling_d2v import Data2VecConfig
from recipes.common.export import image_processor
from recipes.common.transforms import VisionTransform


def picture(width, height, mode):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), mode)


@pytest.mark.parametrize("channels, mode", [(3, "RGB"), (3, "L"), (1, "L")])
@pytest.mark.parametrize("size", [(45, 30), (30, 47), (20, 33), (24, 24), (7, 9)])
def test_image_processor_does_what_the_transform_does(tmp_path, channels, mode, size):
    config = Data2VecConfig(modalities=["vision"], vision_config={"image_size": 24, "patch_size": 4,
                                                                  "num_channels": channels})  # fmt: skip
    transform = VisionTransform(24, channels, mean=0.4, std=[0.2] * channels, train=False)
    image_processor(config, transform).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = picture(*size, mode)
    exported = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(exported[0], transform({"id": 0, "image": image})["pixel_values"], atol=1e-5, rtol=0)
