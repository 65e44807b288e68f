"""Segmentation: maps at the size of the labels, an auxiliary head, the pyramid."""

import pytest
import torch
from model_factory import inputs_for, randomise, tiny_config
from torch.nn import functional as F

from modeling_d2v import (
    Data2VecForSemanticSegmentation,
)


LABELS = 3
SMALL = {"auxiliary_channels": 8, "pool_scales": [1, 2]}


def segmenter(**overrides) -> Data2VecForSemanticSegmentation:
    vision = SMALL | overrides.pop("vision_config", {})
    values = {"num_labels": LABELS, "num_hidden_layers": 4} | overrides
    return randomise(Data2VecForSemanticSegmentation(tiny_config("vision", vision_config=vision, **values))).eval()


def pixel_labels(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    labels = torch.randint(0, LABELS, (batch, height, width), generator=torch.Generator().manual_seed(1))
    labels[:, :5] = 255
    return labels


def test_the_loss_is_taken_at_the_size_of_the_labels_and_ignores_pixels_without_a_class():
    model = segmenter(vision_config={"use_auxiliary_head": False})
    labels = pixel_labels(height=40, width=24)
    output = model(**inputs_for("vision"), labels=labels)
    assert output.logits.shape == (2, LABELS, 8, 8)
    resized = F.interpolate(output.logits, size=(40, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output.loss, F.cross_entropy(resized, labels, ignore_index=255))
    for same in (labels.to(torch.uint8), labels.masked_fill(labels == 255, -100)):
        torch.testing.assert_close(model(**inputs_for("vision"), labels=same).loss, output.loss)
    nothing = model(**inputs_for("vision"), labels=torch.full_like(labels, 255)).loss
    assert nothing == 0


def test_the_auxiliary_head_adds_its_share_of_the_loss():
    images, labels = inputs_for("vision"), pixel_labels()
    model, losses = segmenter(), []
    for weight in (0.0, 0.5, 1.0):
        model.config.vision_config.auxiliary_loss_weight = weight
        losses.append(model(**images, labels=labels).loss)
    torch.testing.assert_close(losses[1] - losses[0], (losses[2] - losses[0]) / 2)
    assert losses[2] - losses[0] > 0.5


def test_accumulated_images_give_the_loss_of_all_of_them():
    model = segmenter()
    images, labels = inputs_for("vision", batch=3)["pixel_values"], pixel_labels(3)
    labels[1, :20] = 255
    whole = model(pixel_values=images, labels=labels).loss
    count = (labels != 255).sum()
    parts = [
        model(pixel_values=images[rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(
    "patch_size, factors",
    [
        (16, (4, 2, 1, 0.5)),
        (14, (4, 2, 1, 0.5)),
        (8, (2, 1, 0.5, 0.25)),
        (32, (8, 4, 2, 1)),
        (1, (1, 0.5, 0.25, 0.125)),
    ],
)
def test_the_pyramid_follows_the_patch_size(patch_size, factors):
    vision = {"patch_size": patch_size, "image_size": 8 * patch_size}
    model = segmenter(vision_config=vision)
    maps = [torch.randn(1, 32, 8, 8)] * 4
    assert [level.shape[-1] for level in model.pyramid(maps)] == [8 * factor for factor in factors]
    size = 8 * patch_size
    logits = model(**inputs_for("vision", size=size)).logits
    assert logits.shape[-1] == 8 * factors[0]


def test_which_levels_the_pyramid_reads():
    def taps(layers: int, prenet: int, **overrides) -> list[int]:
        return segmenter(num_hidden_layers=layers, vision_config={"prenet_depth": prenet}, **overrides).taps

    assert taps(12, 0) == [4, 6, 8, 12] and taps(10, 2) == [2, 4, 6, 10] and taps(24, 0) == [8, 12, 16, 24]
    assert taps(2, 1) == [0, 1, 1, 2]
    assert taps(4, 1, out_indices=[0, 1, 3, -1]) == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="out_indices"):
        taps(4, 1, out_indices=[1, 2])

    model = segmenter(out_indices=[0, 1, 2, 4])
    output = model(**inputs_for("vision"), output_hidden_states=True)
    maps = [output.hidden_states[i][:, 1:].transpose(1, 2).reshape(2, 32, 4, 4) for i in (0, 1, 2, 4)]
    assert torch.equal(model.decode_head(model.pyramid(maps)), output.logits)
    assert model(**inputs_for("vision")).hidden_states is None


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.full((2, 32, 32), LABELS), f"`labels`.*{LABELS}.*0.*2"),
        (torch.zeros(2, 32, 32), "torch.float32"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.long), "shape"),
        (torch.zeros(1, 32, 32, dtype=torch.long), "shape"),
    ],
)
def test_pixel_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        segmenter()(**inputs_for("vision"), labels=labels)
