"""Feature extraction: order, padding, labels and samples that cannot be read."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d2v_train.data.labels import MissingLabelsError
from d2v_train.probing.features import extract
from modeling_d2v import Data2VecConfig, Data2VecModel


INPUTS = {"vision": "pixel_values", "audio": "input_values", "text": "input_ids"}
BLOCKS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
DECODER = dict(decoder_layers=1, decoder_kernel_size=3, decoder_hidden_size=32, decoder_groups=4)


class MeanModel(torch.nn.Module):
    """Stands in for an encoder: one token a sample value, and a record of the batches it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        sub = SimpleNamespace(num_extra_tokens=0, num_frames=lambda samples: samples)
        self.config = SimpleNamespace(modalities=["audio"], modality_config=lambda name: sub)
        self.batches = []

    def forward(self, input_values, attention_mask=None, output_hidden_states=False):
        self.batches.append(tuple(input_values.shape))
        mask = torch.ones_like(input_values) if attention_mask is None else attention_mask.to(input_values.dtype)
        pooled = (input_values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return SimpleNamespace(pooler_output=pooled * self.weight)


class Clips:
    """Dataset of constant clips, sample i of value i, of various lengths."""

    def __init__(self, count=50, seed=0, labels=True):
        self.lengths = np.random.default_rng(seed).integers(5, 40, count)
        self.labels = labels

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        audio = np.full(self.lengths[index], index, dtype=np.float32)
        return {"id": index, "audio": audio, "label": index % 3 if self.labels else None, "group": f"g{index % 2}"}


def as_input(record, seed):
    return {"input_values": torch.from_numpy(record["audio"]), "id": record["id"]}


def test_order_labels_and_groups_are_those_of_the_dataset():
    result = extract(MeanModel(), Clips(), as_input, batch_size=2)
    np.testing.assert_allclose(result.features[:, 0], np.arange(50), rtol=1e-6)
    np.testing.assert_array_equal(result.labels, np.arange(50) % 3)
    np.testing.assert_array_equal(result.indices, np.arange(50))
    assert result.groups == [f"g{i % 2}" for i in range(50)]
    assert result.features.dtype == np.float32 and result.labels.dtype == np.int64


def test_batches_are_sorted_by_length_so_that_little_is_padded():
    model, clips = MeanModel(), Clips(count=64)
    extract(model, clips, as_input, batch_size=4)
    computed = sum(rows * width for rows, width in model.batches)
    assert computed < 1.1 * clips.lengths.sum()
    widest = [width for _, width in model.batches]
    assert widest == sorted(widest)


def test_bad_samples_are_left_out_counted_and_named(caplog):
    class Broken(Clips):
        def __getitem__(self, index):
            """Substitutes like RawDataset; `load` is what tells that a sample is bad."""
            return super().__getitem__(8 if index == 7 else index)

        def load(self, index):
            if index == 7:
                raise OSError("file is truncated")
            return super().__getitem__(index)

    def transform(record, seed):
        if record["id"] == 11:
            raise ValueError("clip is too short")
        return as_input(record, seed)

    with caplog.at_level(logging.WARNING):
        result = extract(MeanModel(), Broken(), transform, batch_size=8)
    assert set(range(50)) - set(result.indices.tolist()) == {7, 11}
    np.testing.assert_allclose(result.features[:, 0], result.indices, rtol=1e-6)
    assert len(result.bad) == 2 and "sample 7" in caplog.text


def test_dataset_without_one_readable_sample_is_an_error():
    def transform(record, seed):
        raise ValueError("wrong format")

    with pytest.raises(ValueError, match="sample 0.*wrong format"):
        extract(MeanModel(), Clips(), transform)


def test_missing_labels_and_regression_labels_are_explained():
    with pytest.raises(MissingLabelsError, match="label"):
        extract(MeanModel(), Clips(labels=False), as_input)
    assert (extract(MeanModel(), Clips(labels=False), as_input, require_labels=False).labels == -1).all()

    class Scores(Clips):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": 2.5}

    with pytest.raises(MissingLabelsError, match="sst2"):
        extract(MeanModel(), Scores(), as_input)


def test_mode_of_the_model_is_restored_even_after_an_error():
    model = MeanModel().train()
    extract(model, Clips(), as_input)
    assert model.training
    with pytest.raises(MissingLabelsError):
        extract(model, Clips(labels=False), as_input)
    assert model.training


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Data2VecConfig(
        **BLOCKS,
        vision_config=dict(image_size=8, patch_size=2, num_channels=1, prenet_depth=1, num_extra_tokens=1, **DECODER),
        audio_config=dict(
            conv_dim=[8, 8, 8], conv_kernel=[10, 4, 4], conv_stride=[5, 4, 4], conv_pos_depth=2, conv_pos_width=6,
            conv_pos_groups=4, **DECODER,
        ),
        text_config=dict(vocab_size=50, max_position_embeddings=32, **DECODER),
    )  # fmt: skip
    return Data2VecModel(config)


class Raw:
    """Random samples of one modality, lengths different from one to the next."""

    def __init__(self, modality, count=11):
        generator = np.random.default_rng(0)
        self.items = []
        for _ in range(count):
            if modality == "vision":
                self.items.append(torch.from_numpy(generator.normal(size=(1, 8, 8)).astype(np.float32)))
            elif modality == "audio":
                samples = generator.normal(size=generator.integers(400, 2000)).astype(np.float32)
                self.items.append(torch.from_numpy(samples))
            else:
                ids = generator.integers(4, 49, generator.integers(1, 20))
                self.items.append(torch.tensor([0, *ids, 2]))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return {"item": self.items[index], "label": index % 2}


@pytest.mark.parametrize("layer", [None, 1, -1])
@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_batched_extraction_equals_one_by_one(model, modality, layer):
    name, raw = INPUTS[modality], Raw(modality)
    result = extract(model, raw, lambda record, seed: {name: record["item"]}, batch_size=4, layer=layer)
    features = result.features
    assert features.shape == (11, 32) and result.labels.tolist() == [i % 2 for i in range(11)]
    model.eval()
    with torch.no_grad():
        for item, row in zip(raw.items, features, strict=True):
            output = model(**{name: item[None]}, output_hidden_states=True)
            expected = output.pooler_output[0]
            if layer is not None:
                extra = model.config.modality_config(modality).num_extra_tokens
                expected = output.hidden_states[layer][0, extra:].mean(dim=0)
            np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)
    assert features.std(axis=0).max() > 1e-4


def test_first_extra_token_can_be_pooled_where_there_is_one(model):
    raw = Raw("vision")
    features = extract(model, raw, lambda r, s: {"pixel_values": r["item"]}, pooling="first").features
    model.eval()
    with torch.no_grad():
        expected = model(pixel_values=torch.stack(raw.items)).last_hidden_state[:, 0]
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="extra"):
        extract(model, Raw("text"), lambda r, s: {"input_ids": r["item"]}, pooling="first")


def test_unknown_layer_and_pooling_are_explained(model):
    with pytest.raises(ValueError, match="Layer 9"):
        extract(model, Raw("text"), lambda r, s: {"input_ids": r["item"]}, layer=9)
    with pytest.raises(ValueError, match="'mean'"):
        extract(model, Raw("text"), lambda r, s: {"input_ids": r["item"]}, pooling="max")
