"""Images: crops, colours and flips that are functions of the seed, values channel by channel."""

import numpy as np
import pytest
import torch
from PIL import Image

from d2v_train.inputs.vision import ColorJitter, VisionTransform


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return {"id": 3, "image": Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))}


def test_an_image_of_the_right_size_is_only_scaled():
    record = picture(12, 12)
    item = VisionTransform(12, train=False)(record)
    expected = (np.asarray(record["image"]).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(item["pixel_values"].numpy(), expected, atol=1e-6)
    assert item["id"] == 3 and item["pixel_values"].dtype == torch.float32


def test_mean_and_std_are_taken_channel_by_channel():
    item = VisionTransform(12, mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 4.0])(picture(12, 12))
    plain = VisionTransform(12, mean=0.0, std=1.0)(picture(12, 12))["pixel_values"]
    expected = (plain - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    torch.testing.assert_close(item["pixel_values"], expected)


def test_evaluation_takes_the_centre():
    pixels = np.zeros((10, 30), dtype=np.uint8)
    pixels[:, 10:20] = 255
    item = VisionTransform(10, num_channels=1, mean=0.0, std=1.0, train=False)(
        {"id": 0, "image": Image.fromarray(pixels)}
    )
    assert item["pixel_values"].shape == (1, 10, 10) and item["pixel_values"].min() == 1.0


def test_crops_are_of_the_given_area_and_pure_in_the_seed():
    transform = VisionTransform(8, crop_scale=(0.3, 0.5), flip=True)
    record = picture(40, 30)
    first, again, other = (transform(record, seed)["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    areas = []
    for seed in range(200):
        left, upper, right, lower = transform._crop_box((40, 30), np.random.default_rng(seed))
        assert 0 <= left < right <= 40 and 0 <= upper < lower <= 30
        areas.append((right - left) * (lower - upper) / 1200)
    assert 0.27 < min(areas) < 0.33 and 0.47 < max(areas) < 0.53


def test_colours_vary_by_a_seeded_share_in_training_only():
    record = {"image": Image.new("RGB", (4, 4), (200, 100, 50)), "id": 0}
    plain = VisionTransform(4)(record)["pixel_values"]
    jitter = VisionTransform(4, color_jitter=0.4)
    drawn = [jitter(record, seed)["pixel_values"] for seed in range(20)]
    assert torch.equal(drawn[3], jitter(record, 3)["pixel_values"])
    assert sum(not torch.equal(one, plain) for one in drawn) == 20
    # A plain picture keeps its mean brightness within brightness times contrast, here 0.6 * 0.6 to 1.4 * 1.4.
    shares = [float((one.mean() + 1) / (plain.mean() + 1)) for one in drawn]
    assert 0.36 <= min(shares) < 0.9 and 1.1 < max(shares) <= 1.96
    assert torch.equal(VisionTransform(4, color_jitter=0.4, train=False)(record)["pixel_values"], plain)


def test_half_of_the_images_are_flipped():
    transform = VisionTransform(4, flip=True)
    record = picture(4, 4)
    plain = VisionTransform(4)(record)["pixel_values"]
    flipped = [torch.equal(transform(record, seed)["pixel_values"], plain.flip(-1)) for seed in range(100)]
    assert 30 < sum(flipped) < 70
    assert all(flip or torch.equal(transform(record, i)["pixel_values"], plain) for i, flip in enumerate(flipped))


@pytest.fixture
def smooth_picture() -> Image.Image:
    """A smooth picture with a corner that is easy to find."""
    y, x = np.mgrid[0:24, 0:32]
    pixels = np.stack([4 * x + 40, 5 * y + 60, 2 * (x + y) + 30], axis=-1).astype(np.uint8)
    pixels[:4, :4] = 250
    return Image.fromarray(pixels)


def test_colour_jitter_changes_colours_and_not_places(smooth_picture):
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    changed = np.asarray(ColorJitter(0.5)(grey, np.random.default_rng(1)))
    assert (changed == changed[0, 0]).all() and not (changed == 100).all()
    assert (np.asarray(ColorJitter(0.0)(smooth_picture, np.random.default_rng(1))) == np.asarray(smooth_picture)).all()
