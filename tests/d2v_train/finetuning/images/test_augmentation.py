"""Augmentation of labelled images: each operation, how often and how strongly it is applied, mixing, repetition."""

import numpy as np
import pytest
import torch
from model_factory import tiny_config
from PIL import Image

from d2v_train.finetuning.images.augmentation import (
    OPERATIONS,
    AugmentedTransform,
    Mixing,
    MixingCollator,
    RandAugment,
    RandomErasing,
)
from d2v_train.inputs.vision import ColorJitter, VisionTransform


GREY = (128, 128, 128)


@pytest.fixture
def picture() -> Image.Image:
    """A smooth picture with a corner that is easy to find."""
    y, x = np.mgrid[0:24, 0:32]
    pixels = np.stack([4 * x + 40, 5 * y + 60, 2 * (x + y) + 30], axis=-1).astype(np.uint8)
    pixels[:4, :4] = 250
    return Image.fromarray(pixels)


def apply(name: str, image: Image.Image, level: float, sign: float = 1.0) -> np.ndarray:
    return np.asarray(OPERATIONS[name](image, level, sign, GREY)).astype(int)


def test_the_operations_are_those_of_the_paper():
    assert len(OPERATIONS) == 15


def test_operations_on_values_follow_their_formulas(picture):
    pixels = np.asarray(picture).astype(int)
    assert (apply("invert", picture, 0.3) == 255 - pixels).all()
    assert (apply("posterize", picture, 0.5) == pixels // 64 * 64).all()
    assert (apply("posterize", picture, 1.0) == pixels // 128 * 128).all()
    assert (apply("solarize", picture, 0.5) == np.where(pixels < 128, pixels, 255 - pixels)).all()
    added = np.minimum(255, pixels + 55)
    assert (apply("solarize_add", picture, 0.5) == np.where(pixels < 128, added, pixels)).all()
    assert np.abs(apply("brightness", picture, 0.5) - np.minimum(255, 1.45 * pixels)).max() <= 1
    assert np.abs(apply("brightness", picture, 1.0, -1.0) - 0.1 * pixels).max() <= 1


def test_moved_pictures_leave_the_fill_colour_behind(picture):
    pixels = np.asarray(picture).astype(int)
    right = apply("translate_x", picture, 5 / 0.45 / 32, -1.0)
    assert (right[:, :5] == 128).all() and np.abs(right[:, 6:-1] - pixels[:, 1:-6]).max() <= 2
    down = apply("translate_y", picture, 5 / 0.45 / 24, -1.0)
    assert (down[:5] == 128).all() and np.abs(down[6:-1] - pixels[1:-6]).max() <= 2
    for name in ("rotate", "shear_x", "shear_y"):
        assert (apply(name, picture, 0.9) == 128).all(axis=-1).any()
        assert not (apply(name, picture, 0.9) == apply(name, picture, 0.9, -1.0)).all()


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"auto_contrast", "equalize", "invert"}))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_higher_level_changes_more(name, sign, picture):
    pixels = np.asarray(picture).astype(int)
    weak, strong = (np.abs(apply(name, picture, level, sign) - pixels).mean() for level in (0.1, 0.9))
    assert weak < strong


@pytest.mark.parametrize("name", OPERATIONS)
def test_grey_pictures_stay_grey(name, picture):
    changed = OPERATIONS[name](picture.convert("L"), 0.9, 1.0, 128)
    assert changed.mode == "L" and changed.size == picture.size


def test_half_of_the_drawn_operations_are_applied(picture, monkeypatch):
    levels = []

    def record(image, level, sign, fill):
        levels.append((level, sign, fill))
        return image

    monkeypatch.setattr("d2v_train.finetuning.images.augmentation.OPERATIONS", {"a": record, "b": record})
    augment = RandAugment(operations=3, magnitude=6.0, std=0.5, fill=(1, 2, 3))
    rng = np.random.default_rng(0)
    for _ in range(400):
        augment(picture, rng)
    strength = np.array([level for level, _, _ in levels])
    assert len(levels) == pytest.approx(600, rel=0.1)
    assert strength.mean() == pytest.approx(0.6, abs=0.01) and strength.std() == pytest.approx(0.05, abs=0.01)
    assert np.mean([sign for _, sign, _ in levels]) == pytest.approx(0, abs=0.15)
    assert {fill for _, _, fill in levels} == {(1, 2, 3)}


def test_the_magnitude_is_kept_in_its_range(picture, monkeypatch):
    levels = []
    monkeypatch.setattr(
        "d2v_train.finetuning.images.augmentation.OPERATIONS",
        {"a": lambda image, level, *rest: levels.append(level) or image},
    )
    augment = RandAugment(operations=2, magnitude=10.0, std=3.0)
    for seed in range(50):
        augment(picture, np.random.default_rng(seed))
    assert max(levels) == 1.0 and min(levels) >= 0.0


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: RandAugment(magnitude=11.0), "magnitude"),
        (lambda: RandAugment(operations=-1), "operations"),
        (lambda: ColorJitter(1.5), "jitter"),
        (lambda: RandomErasing(-0.1), "erasing"),
        (lambda: Mixing(3, mixup=-1.0), "CutMix.*-1.0"),
        (lambda: Mixing(3, smoothing=2.0), "smoothing"),
    ],
)
def test_numbers_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_erasing_puts_noise_into_one_rectangle():
    erase = RandomErasing(probability=0.5)
    shares, noise = [], []
    for seed in range(300):
        pixels = erase(np.full((3, 40, 30), 9.0, dtype=np.float32), np.random.default_rng(seed))
        changed = pixels != 9.0
        if changed.any():
            rows, columns = (np.flatnonzero(changed[0].any(axis=axis)) for axis in (1, 0))
            assert changed[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert changed.sum() == 3 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            shares.append(changed.mean())
            noise.append(pixels[changed])
    assert len(shares) == pytest.approx(150, abs=30)
    assert 0.01 < min(shares) < 0.05 and 0.25 < max(shares) < 0.36
    assert np.concatenate(noise).mean() == pytest.approx(0, abs=0.02)
    assert np.concatenate(noise).std() == pytest.approx(1, abs=0.02)


def test_mixup_blends_images_and_labels_alike():
    labels = torch.tensor([0, 1, 2])
    images = torch.nn.functional.one_hot(labels, 4).float()[:, None, :, None].expand(3, 1, 4, 5)
    mixed, targets = Mixing(4, mixup=0.7)(images, labels, np.random.default_rng(0))
    share = float(targets[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(
        targets, torch.tensor([[share, 0, 1 - share, 0], [0, 1, 0, 0], [1 - share, 0, share, 0]])
    )
    torch.testing.assert_close(mixed[:, 0, :, 0], targets)


def test_cutmix_labels_have_the_share_of_the_pixels():
    labels = torch.tensor([0, 1])
    images = labels.float()[:, None, None, None].expand(2, 3, 20, 16).clone()
    shares = []
    for seed in range(60):
        mixed, targets = Mixing(2, cutmix=1.0)(images, labels, np.random.default_rng(seed))
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets[:, 1])
        rows, columns = (mixed[0, 0] == 1).nonzero().T if (mixed[0] == 1).any() else (torch.zeros(1), torch.zeros(1))
        shares.append((1 - targets[0, 0]).item())
        if shares[-1]:
            height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert height * width == round(shares[-1] * 20 * 16)
    assert max(shares) > 0.6 and min(shares) < 0.1
    assert images[0].sum() == 0  # the batch that was passed in is not changed


def test_both_ways_of_mixing_are_used_in_their_shares():
    labels = torch.tensor([0, 1])
    images = labels.float()[:, None, None, None].expand(2, 1, 8, 8)
    mixing = Mixing(2, mixup=0.8, cutmix=1.0, probability=0.8, cutmix_probability=0.25)
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    for seed in range(500):
        mixed, targets = mixing(images, labels, np.random.default_rng(seed))
        blended = ((mixed > 0) & (mixed < 1)).any()
        kinds["mixup" if blended else "cutmix" if (mixed != images).any() else "none"] += 1
    assert kinds["mixup"] == pytest.approx(300, abs=40)
    assert kinds["cutmix"] == pytest.approx(100, abs=30)


@pytest.mark.parametrize("size", [1, 3])
def test_odd_batches_and_single_images_can_be_mixed(size):
    labels = torch.arange(size)
    images = torch.randn(size, 3, 8, 8)
    mixed, targets = Mixing(4, mixup=0.8, cutmix=1.0, smoothing=0.1)(images, labels, np.random.default_rng(0))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(size))
    middle = size // 2
    torch.testing.assert_close(mixed[middle], images[middle])


def test_smoothing_without_mixing():
    images = torch.randn(2, 3, 4, 4)
    same, targets = Mixing(4, smoothing=0.2)(images, torch.tensor([0, 3]), np.random.default_rng(0))
    assert torch.equal(same, images)
    torch.testing.assert_close(targets, torch.tensor([[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]]))


def make_transform(**options) -> AugmentedTransform:
    crop = VisionTransform(32, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4], **options)
    return AugmentedTransform(crop, [RandAugment(operations=2)], [RandomErasing(0.5)])


def test_nothing_added_is_the_transform_itself(picture):
    crop = VisionTransform(32, crop_scale=(0.3, 1.0), flip=True)
    record = {"image": picture, "id": 4}
    for seed in range(5):
        plain, augmented = crop(record, seed=seed), AugmentedTransform(crop)(record, seed=seed)
        assert torch.equal(plain["pixel_values"], augmented["pixel_values"])
        assert augmented["id"] == 4 and augmented["seed"] == seed


def test_a_sample_is_a_function_of_its_seed(picture):
    transform = make_transform(crop_scale=(0.3, 1.0), flip=True)
    record = {"image": picture, "id": 0}
    first, again, other = (transform(record, seed=seed)["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32


def test_the_collator_mixes_augmented_batches_only(picture):
    collate = MixingCollator(tiny_config("vision"), Mixing(3, mixup=0.7, cutmix=1.0, smoothing=0.1))
    transform = make_transform()
    items = [transform({"image": picture, "id": i}, seed=i) | {"labels": i} for i in range(3)]
    one, two = collate(items), collate(items)
    assert one["labels"].shape == (3, 3) and one["labels"].is_floating_point()
    assert torch.equal(one["pixel_values"], two["pixel_values"]) and torch.equal(one["labels"], two["labels"])
    later = collate([item | {"seed": item["seed"] + 10} for item in items])
    assert not torch.equal(one["labels"], later["labels"])

    plain = collate([{name: value for name, value in item.items() if name != "seed"} for item in items])
    assert plain["labels"].tolist() == [0, 1, 2]
    assert torch.equal(plain["pixel_values"], torch.stack([item["pixel_values"] for item in items]))
