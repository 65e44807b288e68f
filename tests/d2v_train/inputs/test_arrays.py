"""The transform of arrays: crops, standardisation by the training data, augmentation, padding."""

import logging

import numpy as np
import pytest
import torch

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import open_dataset
from d2v_train.inputs.arrays import ArrayTransform
from d2v_train.inputs.collate import Collator
from d2v_train.inputs.processors import SavedArrayExtractor, array_feature_extractor
from d2v_train.inputs.transforms import build_transform
from modeling_d2v import Data2VecConfig, Data2VecProcessor


RAMP = np.stack([np.arange(100.0), 1000 - np.arange(100.0)], axis=1).astype(np.float32)


def record(array=RAMP, index=3):
    return {"id": index, "array": array}


def values(transform, array=RAMP, seed=0) -> np.ndarray:
    return transform(record(array), seed)["array_values"].numpy()


def config(**arrays) -> Data2VecConfig:
    settings = {"num_channels": 2, "group_size": 4, "group_latents": 2, "latent_size": 16, "latent_heads": 2}
    return Data2VecConfig(
        modalities=["arrays"],
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        arrays_config=settings | arrays,
    )


def test_the_whole_array_passes_without_options():
    item = ArrayTransform(2)(record())
    assert item["id"] == 3 and item["array_values"].dtype == torch.float32
    assert np.array_equal(item["array_values"].numpy(), RAMP)


def test_crops_are_random_in_training_and_central_in_evaluation():
    train, test = ArrayTransform(2, crop_length=20), ArrayTransform(2, crop_length=20, train=False)
    starts = {values(train, seed=seed)[0, 0] for seed in range(300)}
    assert min(starts) == 0 and max(starts) == 80 and len(starts) > 70
    assert np.array_equal(values(train, seed=5), values(train, seed=5))
    assert np.array_equal(values(test, seed=5), RAMP[40:60])
    assert np.array_equal(values(ArrayTransform(2, crop_length=200)), RAMP), "a shorter series stays whole"
    assert not np.shares_memory(values(test), RAMP)


@pytest.mark.parametrize("crop", [5, [5, 5]])
def test_arrays_of_several_dimensions_are_cropped_to_one_shape(crop):
    picture = np.arange(7 * 9 * 2, dtype=np.float32).reshape(7, 9, 2)
    test = ArrayTransform(2, 2, crop_length=crop, train=False)
    assert np.array_equal(values(test, picture), picture[1:6, 2:7])
    with pytest.raises(BadSample, match="smaller than the crop") as caught:
        values(test, picture[:4])
    assert caught.value.reason == "wrong shape"


def test_short_series_are_padded_with_the_mean():
    found = values(ArrayTransform(2, min_length=8, mean=[1.0, 2.0], std=2.0), np.full((3, 2), 5.0))
    assert found[:3].tolist() == [[2.0, 1.5]] * 3 and found[3:].tolist() == [[0.0, 0.0]] * 5


def test_mean_and_deviation_are_those_of_the_training_data(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal([1e6, -3.0], [0.5, 40.0], (50 + 10 * row, 2)) for row in range(5)]
    for row, array in enumerate(arrays):
        np.save(tmp_path / f"{row}.npy", array)
    (tmp_path / "9.npy").write_text("damaged")
    dataset = open_dataset("arrays", str(tmp_path))
    transform = ArrayTransform(2)
    transform.fit([dataset])
    # The damaged sample is replaced by the first one.
    everything = np.concatenate([*arrays, arrays[0]])
    np.testing.assert_allclose(transform.mean, everything.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(transform.std, everything.std(axis=0), rtol=5e-3)
    twice = ArrayTransform(2)
    twice.fit([dataset])
    assert (twice.mean, twice.std) == (transform.mean, transform.std)
    # Joined sources count by their samples.
    joined = ArrayTransform(2)
    joined.fit([dataset.select([0, 1]), dataset.select([2, 3, 4])])
    np.testing.assert_allclose(joined.mean, np.concatenate(arrays).mean(axis=0), rtol=1e-6)


def test_what_is_given_is_not_computed(tmp_path):
    np.save(tmp_path / "0.npy", RAMP)
    transform = ArrayTransform(2, mean=7)
    transform.fit([open_dataset("arrays", str(tmp_path))])
    assert transform.mean == [7.0, 7.0] and transform.std == pytest.approx(RAMP.std(axis=0).tolist())


def test_a_constant_channel_is_named_and_not_scaled(tmp_path, caplog):
    np.save(tmp_path / "0.npy", np.stack([np.arange(9.0), np.full(9, 4.0)], axis=1))
    transform = ArrayTransform(2)
    with caplog.at_level(logging.WARNING):
        transform.fit([open_dataset("arrays", str(tmp_path))], "data.arrays")
    assert transform.std[1] == 1.0 and transform.mean[1] == 4.0
    assert "Channels 1 of data.arrays are constant" in caplog.text


def test_the_crop_of_several_dimensions_is_that_of_the_first_sample(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((4, 6, 2)))
    np.save(tmp_path / "1.npy", np.ones((5, 6, 2)))
    transform = ArrayTransform(2, num_dims=2)
    transform.fit([open_dataset("arrays", str(tmp_path), num_dims=2)])
    assert transform.crop_length == [4, 6]


def test_augmentation_is_for_training_alone():
    scaled = values(ArrayTransform(2, scaling=0.5), seed=1) / RAMP.clip(1)
    assert np.allclose(scaled[1:], scaled[1]) and abs(scaled[1, 0] - scaled[1, 1]) > 1e-3
    noise = np.concatenate([values(ArrayTransform(2, jitter=0.3), seed=seed) - RAMP for seed in range(40)])
    assert noise.std() == pytest.approx(0.3, rel=0.05) and abs(noise.mean()) < 0.02
    assert np.array_equal(values(ArrayTransform(2, scaling=0.5, jitter=0.3, train=False)), RAMP)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_length": 0}, "crop_length is 0"),
        ({"crop_length": 2.5}, "crop_length is 2.5"),
        ({"crop_length": True}, "crop_length is True"),
        ({"crop_length": [5, 5]}, r"crop_length is \[5, 5\]; .* 1 of them"),
        ({"mean": [1.0]}, r"mean is \[1.0\]; .* 2 of them"),
        ({"mean": "zero"}, "mean is 'zero'"),
        ({"mean": float("nan")}, "mean is nan"),
        ({"std": 0}, "std is .*above 0"),
        ({"std": [1.0, -1.0]}, "std is .*above 0"),
        ({"jitter": -1}, "jitter is -1"),
        ({"jitter": "much"}, "jitter is 'much'"),
        ({"scaling": 11}, "scaling is 11"),
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"croplength": 5}, "no option 'croplength'. Did you mean 'crop_length'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_transform("arrays", options, config())


def test_series_of_a_batch_are_padded_and_masked_by_their_own_length():
    model = config()
    transform = build_transform("arrays", {"mean": 0.0, "std": 1.0}, model)
    assert transform.min_length == 8
    items = [transform(record(RAMP[:length], index)) for index, length in enumerate((9, 40, 5))]
    batch = Collator(model)(items)
    assert batch["array_values"].shape == (3, 40, 2)
    assert batch["attention_mask"].sum(dim=1).tolist() == [9, 40, 8]
    assert batch["mask"].shape[2] == 10 and batch["sample_ids"].tolist() == [0, 1, 2]
    alone = Collator(model)([items[0]])
    assert "attention_mask" not in alone
    assert torch.equal(alone["mask"][0], batch["mask"][0, :, : alone["mask"].shape[2]])
    collator = Collator(model)
    assert collator.count_tokens("arrays", batch) == 3 + 10 + 2


def test_the_saved_extractor_does_what_the_transform_does(tmp_path):
    model = config()
    options = {"mean": [1.0, 2.0], "std": [3.0, 4.0], "crop_length": 50, "sampling_rate": 100.0}
    transform = build_transform("arrays", options, model, train=False)
    extractor = array_feature_extractor(model, transform)
    Data2VecProcessor(array_feature_extractor=extractor).save_pretrained(tmp_path)
    saved = SavedArrayExtractor.from_pretrained(str(tmp_path))
    given = saved([RAMP[25:75]], return_tensors="pt")["array_values"][0]
    torch.testing.assert_close(given, transform(record())["array_values"])
    found = ArrayTransform.of_processor(saved)
    assert found == {"mean": [1.0, 2.0], "std": [3.0, 4.0], "crop_length": [50], "sampling_rate": 100.0}
    assert build_transform("arrays", found, model, train=False) == transform


def test_a_folder_without_an_array_extractor_says_so(tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    Data2VecProcessor(feature_extractor=Wav2Vec2FeatureExtractor()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no feature extractor of arrays"):
        SavedArrayExtractor.from_pretrained(str(tmp_path))
