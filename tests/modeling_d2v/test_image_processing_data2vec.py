"""Image processor: arrays and pictures alike, segmentation maps, what is refused."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from processing_factory import image_processor

from modeling_d2v import Data2VecImageProcessor


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["grey", "colour", "transparent", "16 bits"])
def test_arrays_and_pictures_are_converted_alike(channels, kind):
    random = np.random.default_rng(0)
    shapes = {"grey": (40, 32), "colour": (40, 32, 3), "transparent": (40, 32, 4), "16 bits": (40, 32)}
    dtype = np.uint16 if kind == "16 bits" else np.uint8
    array = random.integers(0, np.iinfo(dtype).max, shapes[kind], dtype=dtype)
    processor = image_processor(num_channels=channels)
    picture = processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    assert picture.shape == (1, channels, 32, 32)
    values = array if array.ndim == 3 else array[..., None]
    tensor = torch.from_numpy(values.transpose(2, 0, 1).copy()) if dtype == np.uint8 else values
    for given in (array, [array], values, tensor):
        other = processor(given, return_tensors="pt")["pixel_values"]
        # Grey is rounded by pillow and cut off here: a step of 1 / 127.5.
        torch.testing.assert_close(other, picture, atol=0.0081, rtol=0)
    assert picture.std() > 0.1, "clipped"


@pytest.mark.parametrize(("plain", "mode"), [("RGBA", "RGBA"), ("LA", "LA"), ("RGBA", "RGBa"), ("LA", "La")])
def test_transparent_pixels_are_white(plain, mode):
    picture = Image.new(plain, (32, 32), 0).convert(mode)
    assert (image_processor()(picture, return_tensors="pt")["pixel_values"] == 1).all()


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="4 channels"):
        image_processor()(np.random.default_rng(0).random((32, 32, 4)))


def test_segmentation_maps_keep_their_class_ids():
    square = {"height": 32, "width": 32}
    processor = image_processor(size=square, do_center_crop=False)
    ids = np.random.default_rng(0).choice([0, 7, 150, 255], (40, 50)).astype(np.uint8)
    for given in (ids, Image.fromarray(ids)):
        out = processor(PICTURE, segmentation_maps=given, return_tensors="pt")
        assert out["labels"].shape == (1, 32, 32) and out["labels"].dtype == torch.int64
        assert set(out["labels"].unique().tolist()) == {0, 7, 150, 255}
    plain = processor(PICTURE, return_tensors="pt")
    torch.testing.assert_close(out["pixel_values"], plain["pixel_values"])
    reduced = image_processor(size=square, do_center_crop=False, do_reduce_labels=True)
    labels = reduced(PICTURE, segmentation_maps=ids, return_tensors="pt")["labels"]
    assert set(labels.unique().tolist()) == {6, 149, 255}


def test_predicted_maps_get_the_size_of_the_picture():
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1, :, 4:] = 1
    outputs = type("Outputs", (), {"logits": logits})
    (found,) = image_processor().post_process_semantic_segmentation(outputs, target_sizes=[(40, 50)])
    assert found.shape == (40, 50) and found[:, :20].max() == 0 and found[:, 30:].min() == 1


def test_without_pillow_the_rest_works(monkeypatch):
    """The module as it is imported where pillow is missing."""
    import importlib.util

    monkeypatch.setitem(sys.modules, "PIL", None)
    path = sys.modules[Data2VecImageProcessor.__module__].__file__
    spec = importlib.util.spec_from_file_location("without_pillow", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError, match="'vision'"):
        module.Data2VecImageProcessor()
