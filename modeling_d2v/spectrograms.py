"""Spectrogram patches as a front end of audio: log-mel energies, cut into patches of time and frequency.

As in EAT (Chen et al. 2024, arXiv 2401.03497) and AST (Gong et al. 2021) the energies are Kaldi's. The patches lie on
a grid whose rows are steps of time and whose columns are bands of frequency; their positions are fixed.

Shapes: B samples, S samples of a waveform, F frames, N mel bins, t x f grid of patches, D hidden size.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_audio import LOWEST_MEL_FREQUENCY, Data2VecAudioConfig, mel
from .configuration_data2vec import Data2VecConfig
from .dropout import Dropout
from .local_encoders import (
    LocalEncoder,
    LocalFeatures,
    SelfInitialised,
    check_waveforms,
    init_patches,
    scale_gradient,
    whole_windows,
)
from .positions import SinCosTimePositions


_PREEMPHASIS = 0.97
_FLOOR = torch.finfo(torch.float32).eps


def _mel_filters(bins: int, fft_size: int, sampling_rate: int) -> Tensor:
    """Return Kaldi's triangular filters (N, fft_size / 2 + 1) of equal width in mel, up to half the sampling rate."""

    edges = torch.linspace(mel(LOWEST_MEL_FREQUENCY), mel(sampling_rate / 2), bins + 2, dtype=torch.float64)
    frequencies = [place * sampling_rate / fft_size for place in range(fft_size // 2 + 1)]
    places = torch.tensor([mel(frequency) for frequency in frequencies], dtype=torch.float64)
    lower, centre, upper = (edges[i : bins + i, None] for i in range(3))
    rising, falling = (places - lower) / (centre - lower), (upper - places) / (upper - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMel(SelfInitialised):
    """Log-mel energies as Kaldi computes them, without dither, normalised by a fixed mean and deviation.

    Everything runs in fp32, whatever the type of the model: energies span many orders of magnitude.
    """

    def __init__(self, audio: Data2VecAudioConfig) -> None:
        super().__init__()
        self.audio = audio
        self.fft_size = 2 ** math.ceil(math.log2(audio.mel_window))  # the next power of 2
        for name, table in self.initial_tables().items():
            self.register_buffer(name, table, persistent=False)

    def initial_tables(self) -> dict[str, Tensor]:
        # Values are needed even where modules are built on the meta device: they are no checkpoint's to give.
        with torch.device("cpu"):
            return {
                "window": torch.hann_window(self.audio.mel_window, periodic=False),
                "filters": _mel_filters(self.audio.mel_bins, self.fft_size, self.audio.sampling_rate),
            }

    def init_weights(self) -> None:
        for name, table in self.initial_tables().items():
            init.copy_(self.get_buffer(name), table)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, S) -> normalised energies (B, F, N), in fp32."""
        audio, device = self.audio, waveforms.device.type
        # The meta device, on which operations are counted, knows no autocast.
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            frames = waveforms.float().unfold(1, audio.mel_window, audio.mel_hop)  # (B, F, window)
            frames = frames - frames.mean(dim=-1, keepdim=True)
            before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
            frames = (frames - _PREEMPHASIS * before) * self.window.float()
            spectrum = torch.view_as_real(torch.fft.rfft(frames, n=self.fft_size))
            energies = F.linear(spectrum.square().sum(dim=-1), self.filters.float())
            # Twice the deviation, as AST and EAT have it.
            return (energies.clamp(min=_FLOOR).log() - audio.mel_mean) / (2 * audio.mel_std)


class SpectrogramLocalEncoder(LocalEncoder):
    """Log-mel energies, and a convolution over them whose stride is its kernel.

    What is left at the end of a recording and fills no patch is not seen. A patch is real if all of its samples are.
    """

    def __init__(self, config: Data2VecConfig, audio: Data2VecAudioConfig) -> None:
        super().__init__()
        self.audio = audio
        self.log_mel = LogMel(audio)
        patch = (audio.patch_frames, audio.patch_bins)
        self.projection = nn.Conv2d(1, config.hidden_size, patch, stride=patch)
        self.dropout = Dropout(audio.feat_proj_dropout)

    def make_positions(self, config: Data2VecConfig) -> nn.Module:
        return SinCosTimePositions(config.hidden_size, self.audio.tokens_per_frame)

    @property
    def first_layer(self) -> nn.Module:
        return self.projection

    def init_weights(self) -> None:
        init_patches(self.projection)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        check_waveforms(self.audio, input_values)
        grid = self.audio.token_grid(input_values.shape)
        energies = self.log_mel(input_values)[:, None]  # (B, 1, F, N)
        patches = self.projection(energies.to(self.projection.weight.dtype))  # (B, D, t, f)
        features = scale_gradient(patches.flatten(2).transpose(1, 2), self.audio.local_grad_scale)
        if attention_mask is None:
            return LocalFeatures(self.dropout(features), None, grid, features)
        steps = whole_windows(attention_mask.bool(), self.audio.frame_width, self.audio.frame_stride)
        return LocalFeatures(self.dropout(features), steps.repeat_interleave(grid[1], dim=1), grid, features)
