"""Transforms: shapes and values, purity in the seed, concatenation and packing."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.inputs.audio import AudioTransform, standardise
from d2v_train.inputs.packing import PackedTextDataset
from d2v_train.inputs.tokenizer import build_tokenizer
from d2v_train.inputs.transforms import build_transform
from d2v_train.inputs.vision import VisionTransform
from modeling_d2v import Data2VecConfig


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return {"id": 3, "image": Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))}


# ---- images


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


# ---- audio


def speakers(counts=(3, 2), seconds=0.25):
    """Clips whose samples tell the speaker: speaker s oscillates between s + 1 and -(s + 1)."""
    values, groups = [], []
    for speaker, count in enumerate(counts):
        for clip in range(count):
            samples = (speaker + 1) * np.resize([1.0, -1.0], int(16_000 * seconds) + 100 * clip)
            values.append({"array": samples.astype(np.float32), "sampling_rate": 16_000})
            groups.append(f"s{speaker}")
    return RawDataset("audio", Table(values, groups=groups))


def test_standardised_per_utterance_in_float32():
    samples = np.random.default_rng(0).normal(3, 5, 4_000).astype(np.float32)
    out = standardise(samples)
    assert out.dtype == np.float32 and abs(out.mean()) < 1e-5 and abs(out.std() - 1) < 1e-5
    from transformers import Wav2Vec2FeatureExtractor

    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(samples, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert (standardise(np.full(10, 0.3)) == 0).all()


def test_crops_have_random_lengths_within_the_range():
    transform = AudioTransform(crop_seconds=(0.1, 0.2))
    record = {"id": 1, "audio": np.random.default_rng(0).normal(size=16_000).astype(np.float32)}
    lengths = [len(transform(record, seed)["input_values"]) for seed in range(100)]
    # Few different lengths, evenly spaced: a new shape is dear.
    assert set(lengths) == set(range(1_600, 3_201, 160))
    assert torch.equal(transform(record, 5)["input_values"], transform(record, 5)["input_values"])


def test_clips_of_one_speaker_fill_the_crop():
    data = speakers()
    transform = AudioTransform(crop_seconds=1.0, concat_group=True)
    data = transform.prepare(data)
    for index in range(len(data)):
        first, again = (transform(data[index], seed=9)["input_values"] for _ in range(2))
        assert len(first) == 16_000 and torch.equal(first, again)
        # Were another speaker's clip among them, the standardised samples would take more than two absolute values.
        assert len(np.unique(np.round(first.abs().numpy(), 3))) == 1
    assert not torch.equal(transform(data[0], seed=1)["input_values"], transform(data[0], seed=2)["input_values"])


def test_evaluation_keeps_the_clip():
    data = speakers()
    transform = AudioTransform(crop_seconds=1.0, concat_group=True, train=False)
    assert transform.prepare(data) is data
    assert len(transform(data[1], 0)["input_values"]) == 4_100
    assert len(AudioTransform(max_seconds=0.1, train=False)(data[1], 0)["input_values"]) == 1_600


def test_short_clips_are_filled_up_after_standardisation():
    out = AudioTransform(min_samples=720)({"id": 0, "audio": np.resize([2.0, 4.0], 300).astype(np.float32)})
    values = out["input_values"]
    assert len(values) == 720 and (values[300:] == 0).all() and abs(values[:300].std(correction=0) - 1) < 1e-4


def test_speed_changes_the_pitch_and_not_the_length_of_a_crop():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(64_000) / 16_000).astype(np.float32)
    record = {"id": 1, "audio": tone}
    transform = AudioTransform(crop_seconds=1.0, speed=(0.8, 1.25))
    peaks = []
    for seed in range(20):
        out = transform(record, seed)["input_values"]
        assert len(out) == 16_000 and torch.equal(out, transform(record, seed)["input_values"])
        peaks.append(int(torch.fft.rfft(out).abs().argmax()))
    assert 790 <= min(peaks) < 900 and 1_150 < max(peaks) <= 1_260
    whole = AudioTransform(speed=1.25)(record)["input_values"]
    assert len(whole) == 51_200 and int(torch.fft.rfft(whole).abs().argmax()) == 4_000
    assert len(AudioTransform(speed=1.25, train=False)(record)["input_values"]) == 64_000


def test_concatenation_needs_a_length():
    with pytest.raises(ValueError, match="crop_seconds"):
        AudioTransform(concat_group=True)


def test_clips_of_unknown_speakers_are_cropped_one_by_one(caplog):
    data = speakers()
    data.groups = None
    transform = AudioTransform(crop_seconds=(0.1, 0.2), concat_group=True)
    assert transform.prepare(data) is data
    assert [record.getMessage().count("audio.dataset.group_column") for record in caplog.records] == [1]
    plain = AudioTransform(crop_seconds=(0.1, 0.2))
    for seed in range(5):
        expected = plain(data[1], seed)["input_values"]
        assert torch.equal(transform(data[1], seed)["input_values"], expected)
    assert len(AudioTransform(crop_seconds=9.0)(data[1], 0)["input_values"]) == 4_100


class Transformed(Dataset):
    def __init__(self, data, transform):
        self.data, self.transform = data, transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.transform(self.data[index], seed=index)


def test_workers_change_nothing():
    data = speakers()
    transform = AudioTransform(crop_seconds=(0.2, 0.6), concat_group=True)
    data = transform.prepare(data)
    results = [list(DataLoader(Transformed(data, transform), batch_size=None, num_workers=n)) for n in (0, 2)]
    for alone, together in zip(*results, strict=True):
        assert torch.equal(alone["input_values"], together["input_values"])


# ---- text


DOCUMENTS = [f"document {word} speaks of {word} and of nothing else" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(DOCUMENTS * 3, 320)


def test_blocks_hold_all_documents_in_order(tokenizer):
    data = RawDataset("text", Table([DOCUMENTS[0], "", *DOCUMENTS[1:]]))
    packed = PackedTextDataset(data, tokenizer, 10)
    blocks = [packed[i]["input_ids"] for i in range(len(packed))]
    assert {len(block) for block in blocks} == {10}
    assert all(block[0] == 0 and block[-1] == 2 for block in blocks)
    stream = [token for text in DOCUMENTS for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]]
    body = np.concatenate([block[1:-1] for block in blocks])
    assert body.tolist() == stream[: len(body)] and len(stream) - len(body) < 8
    assert data.bad.counts() == {"empty": 1}
    assert packed[-1]["id"] == len(packed) - 1
    with pytest.raises(IndexError):
        packed[len(packed)]


def test_too_little_text_gives_one_short_block(tokenizer):
    packed = PackedTextDataset(RawDataset("text", Table(["one"])), tokenizer, 500)
    assert len(packed) == 1 and len(packed[0]["input_ids"]) < 20
    with pytest.raises(ValueError, match="2 documents"):
        PackedTextDataset(RawDataset("text", Table(["", " "])), tokenizer, 500)
    with pytest.raises(ValueError, match="at least 3"):
        PackedTextDataset(RawDataset("text", Table(["one"])), tokenizer, 2)


def test_tokens_on_disk_are_those_in_memory_and_follow_the_documents(tokenizer, tmp_path, monkeypatch):
    data = RawDataset("text", Table(DOCUMENTS))
    memory = PackedTextDataset(data, tokenizer, 10)
    disk = PackedTextDataset(data, tokenizer, 10, cache_dir=tmp_path)
    np.testing.assert_array_equal(memory.tokens, disk.tokens)
    other = PackedTextDataset(RawDataset("text", Table(DOCUMENTS[:2])), tokenizer, 10, cache_dir=tmp_path)
    assert len(other.tokens) < len(disk.tokens) and len(list(tmp_path.glob("*.int32"))) == 2
    monkeypatch.setattr("d2v_train.inputs.packing._tokenise", None)  # a third run may not tokenise again
    np.testing.assert_array_equal(PackedTextDataset(data, tokenizer, 10, cache_dir=tmp_path).tokens, memory.tokens)


# ---- from options


@pytest.fixture(scope="module")
def config():
    return Data2VecConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vision_config={"image_size": 16, "patch_size": 4, "num_channels": 1},
        text_config={"vocab_size": 320, "max_position_embeddings": 34},
    )


def test_what_is_not_given_follows_from_the_model(config, tokenizer):
    vision = build_transform("vision", None, config)
    assert vision(picture(20, 18))["pixel_values"].shape == (1, 16, 16)
    audio = build_transform("audio", {"crop_seconds": [0.001, 0.002]}, config)
    values = audio({"id": 0, "audio": np.arange(100, dtype=np.float32)})["input_values"]
    assert config.modality_config("audio").num_frames(len(values)) == 2
    text = build_transform("text", None, config, tokenizer)
    assert text.max_length == 34  # the whole table: the model has rows for the pad id beside these
    packed = text.prepare(RawDataset("text", Table(DOCUMENTS * 2)))
    item = text(packed[1])
    assert item["input_ids"].shape == (34,) and item["input_ids"].dtype == torch.int64 and item["id"] == 1


def test_single_texts_and_pairs_are_cut_to_length(config, tokenizer):
    text = build_transform("text", {"max_length": 9}, config, tokenizer, train=False)
    data = RawDataset("text", Table([DOCUMENTS[0], ("one", "two")]))
    assert text.prepare(data) is data
    ids = text(data[0])["input_ids"]
    assert len(ids) == 9 and ids[0] == 0 and ids[-1] == 2
    assert text(data[1])["input_ids"].tolist() == tokenizer("one", "two")["input_ids"]


def test_wrong_options_are_explained(config):
    with pytest.raises(ValueError, match="'crop_scal'.*'crop_scale'"):
        build_transform("vision", {"crop_scal": 0.5}, config)
    with pytest.raises(ValueError, match="crop_scale"):
        build_transform("vision", {"crop_scale": [0.9, 0.4]}, config)
    with pytest.raises(ValueError, match="mean"):
        build_transform("vision", {"mean": [0.5, 0.5, 0.5]}, config)
    with pytest.raises(ValueError, match="crop_scale"):
        build_transform("vision", {"crop_scale": "big"}, config)
    with pytest.raises(ValueError, match="speed"):
        build_transform("audio", {"speed": [1.1, 0.9]}, config)
    with pytest.raises(ValueError, match="color_jitter.*2.*0.*1"):
        build_transform("vision", {"color_jitter": 2}, config)
    with pytest.raises(ValueError, match="flip"):
        build_transform("vision", {"flip": "yes"}, config)
    with pytest.raises(ValueError, match="min_samples.*0"):
        build_transform("audio", {"min_samples": 0}, config)
    with pytest.raises(ValueError, match="std"):
        build_transform("vision", {"std": 0}, config)
    with pytest.raises(ValueError, match="tokenizer"):
        build_transform("text", None, config)
