"""Collation: padding, attention masks, and masks that do not depend on the batch."""

import numpy as np
import pytest
import torch

from d2v_train.inputs.collate import Collator
from modeling_d2v import Data2VecConfig


@pytest.fixture(scope="module")
def config():
    return Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config={"image_size": 16, "patch_size": 4, "num_masks": 3},
        text_config={"vocab_size": 300, "num_masks": 2},
        audio_config={"num_masks": 2},
    )


def audio(index, samples):
    return {"id": index, "input_values": torch.full((samples,), float(index))}


def text(index, length):
    return {"id": index, "input_ids": torch.arange(5, 5 + length)}


def test_audio_is_padded_with_zeros(config):
    batch = Collator(config)([audio(3, 8_000), audio(4, 12_000)], step=1)
    assert batch["input_values"].shape == (2, 12_000) and batch["input_values"].dtype == torch.float32
    assert batch["input_values"][0, 8_000:].abs().max() == 0 and (batch["input_values"][1] == 4).all()
    assert batch["attention_mask"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [8_000, 12_000]
    frames = config.modality_config("audio").num_frames(torch.tensor([8_000, 12_000])).tolist()
    assert batch["mask"].shape == (2, 2, max(frames)) and batch["mask"].dtype == torch.bool
    assert not batch["mask"][0, :, frames[0] :].any() and batch["mask"].any(-1).all()
    assert batch["sample_ids"].tolist() == [3, 4]


def test_text_is_padded_with_the_pad_id(config):
    batch = Collator(config)([text(0, 10), text(1, 6)])
    assert batch["input_ids"][1, 6:].tolist() == [config.modality_config("text").pad_token_id] * 4
    assert batch["attention_mask"].sum(1).tolist() == [10, 6]
    assert batch["mask"].shape == (2, 2, 10) and not batch["mask"][1, :, 6:].any()


def test_no_attention_mask_without_padding(config):
    assert set(Collator(config)([text(0, 9), text(1, 9)])) == {"input_ids", "mask", "sample_ids"}
    assert set(Collator(config)([audio(0, 4_000)])) == {"input_values", "mask", "sample_ids"}


def test_images_are_stacked_and_masked_by_their_grid(config):
    items = [{"id": i, "pixel_values": torch.rand(3, 16, 24)} for i in range(2)]
    batch = Collator(config)(items)
    assert batch["pixel_values"].shape == (2, 3, 16, 24) and batch["mask"].shape == (2, 3, 24)
    assert "attention_mask" not in batch
    torch.testing.assert_close(batch["pixel_values"][1], items[1]["pixel_values"])


def test_masks_follow_seed_step_and_sample_not_the_batch(config):
    collator = Collator(config, seed=5)
    together = collator([audio(1, 16_000), audio(2, 9_000)], step=7)["mask"]
    alone = collator([audio(2, 9_000)], step=7)["mask"]
    torch.testing.assert_close(together[1:, :, : alone.shape[-1]], alone)
    assert not torch.equal(alone, collator([audio(2, 9_000)], step=8)["mask"])
    assert not torch.equal(alone, Collator(config, seed=6)([audio(2, 9_000)], step=7)["mask"])
    assert not torch.equal(alone, collator([audio(3, 9_000)], step=7)["mask"])


def test_without_masks_for_feature_extraction(config):
    assert set(Collator(config, masks=False)([text(0, 4), text(1, 5)])) == {"input_ids", "attention_mask"}


def test_numpy_items_are_taken(config):
    batch = Collator(config)([{"id": np.int64(4), "input_values": np.zeros(4_000, dtype=np.float32)}])
    assert batch["sample_ids"].tolist() == [4]


def test_errors(config):
    collator = Collator(config)
    with pytest.raises(ValueError, match="modality"):
        collator([text(0, 4), audio(0, 4_000)])
    with pytest.raises(ValueError, match="modality"):
        collator([])
    with pytest.raises(ValueError, match="differ"):
        collator([{"id": i, "pixel_values": torch.zeros(3, 16, 16 + 4 * i)} for i in range(2)])
