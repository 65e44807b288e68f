"""The configuration of audio."""

import torch

from modeling_d2v import Data2VecAudioConfig, Data2VecConfig
from tests.modeling_d2v.reference_fixtures import load_numbers


def test_audio_frames_follow_from_the_convolutions():
    reference_frames = {400: 1, 399: 0, 16000: 49, 32001: 99, 320000: 999}
    config = Data2VecAudioConfig()
    assert (config.frame_width, config.frame_stride) == (400, 320)
    assert {samples: config.num_frames(samples) for samples in reference_frames} == reference_frames


def test_settings_that_need_no_divisor_are_not_refused():
    config = Data2VecConfig(
        modalities="audio", hidden_size=36, masked_tokens="replaced", audio_config={"conv_pos_depth": 0}
    )
    assert config.hidden_size % config.audio_config.conv_pos_groups != 0


def test_frames_of_audio():
    recorded = load_numbers()["audio_frames"]
    config = Data2VecAudioConfig()
    assert {samples: config.num_frames(int(samples)) for samples in recorded} == recorded
    lengths = torch.tensor([int(samples) for samples in recorded])
    assert config.num_frames(lengths).tolist() == list(recorded.values())
