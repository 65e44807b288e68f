"""Clips of one speaker are joined until they fill the crop."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.inputs.audio import AudioTransform


def speakers(counts=(3, 2), seconds=0.25):
    """Clips whose samples tell the speaker: speaker s oscillates between s + 1 and -(s + 1)."""
    values, groups = [], []
    for speaker, count in enumerate(counts):
        for clip in range(count):
            samples = (speaker + 1) * np.resize([1.0, -1.0], int(16_000 * seconds) + 100 * clip)
            values.append({"array": samples.astype(np.float32), "sampling_rate": 16_000})
            groups.append(f"s{speaker}")
    return RawDataset("audio", Table(values, groups=groups))


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
