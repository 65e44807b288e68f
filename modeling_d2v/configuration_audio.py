"""Configuration of speech: front end, mask, decoder and targets for pretraining, and the task heads.

The defaults of pretraining are the published base settings of data2vec 2.0 (`base_audio_only_task`). Those of
fine-tuning are the ones that both versions publish for speech recognition, fairseq's
`examples/wav2vec/config/finetuning/base_100h`.
"""

import math
from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_checks import below_one, in_range, one_of
from .configuration_modalities import Data2VecModalityConfig


OWNER = "Data2VecAudioConfig"
LOWEST_MEL_FREQUENCY = 20.0
"""Hz, where the first filter of a spectrogram begins."""
CONV_LAYERS = ("conv_dim", "conv_kernel", "conv_stride")
TDNN_LAYERS = ("tdnn_dim", "tdnn_kernel", "tdnn_dilation")


def conv_window(settings: Any) -> tuple[int, int]:
    """Return the samples that a frame of the convolutions `conv_kernel`, `conv_stride` sees, and those between two."""
    width, stride = 1, 1
    for kernel, layer_stride in zip(settings.conv_kernel, settings.conv_stride, strict=True):
        width += (kernel - 1) * stride
        stride *= layer_stride
    return width, stride


def patch_window(settings: Any) -> tuple[int, int]:
    """Return the samples that a row of patches of a spectrogram sees, and those between two rows."""
    frames, hop = settings.patch_frames, settings.mel_hop
    return (frames - 1) * hop + settings.mel_window, frames * hop


def group_window(settings: Any) -> tuple[int, int]:
    """Return the samples in a group of the perceiver front end, twice: groups do not overlap."""
    return settings.group_size, settings.group_size


def mel(frequency: float) -> float:
    """Return a frequency in Hz on the mel scale."""
    return 1127.0 * math.log1p(frequency / 700.0)


def patch_bands(settings: Any) -> list[float]:
    """Return the frequencies in Hz between which the bands of patches of a spectrogram lie, from the lowest."""
    low, high = mel(LOWEST_MEL_FREQUENCY), mel(settings.sampling_rate / 2)
    # Half way between the centres of the filters on either side; the first centre is one step above the lowest.
    steps = [(start + 0.5) / (settings.mel_bins + 1) for start in range(0, settings.mel_bins + 1, settings.patch_bins)]
    return [700.0 * math.expm1((low + step * (high - low)) / 1127.0) for step in steps]


# By the name of the front end.
WINDOWS = {"convolutions": conv_window, "spectrogram": patch_window, "perceiver": group_window}


class Frames:
    """Mixin of a configuration whose front end cuts a waveform into windows of equal length and distance."""

    def _window(self) -> tuple[int, int]:
        return conv_window(self)

    @property
    def frame_width(self) -> int:
        """Samples that one frame, the tokens of one time step, sees (400 with the published convolutions)."""
        return self._window()[0]

    @property
    def frame_stride(self) -> int:
        """Samples from one frame to the next (320 with the published convolutions)."""
        return self._window()[1]

    @property
    def band_edges(self) -> list[float] | None:
        """Frequencies in Hz between which the tokens of one time step lie, from the lowest; None where it is one."""
        return None

    def num_frames(self, samples: Any) -> Any:
        """Frames of a waveform of `samples` samples (int or integer tensor); 0 where it is shorter than one frame."""
        frames = (samples - self.frame_width) // self.frame_stride + 1
        return frames.clamp(min=0) if hasattr(frames, "clamp") else max(frames, 0)


@strict
class Data2VecAudioConfig(Frames, Data2VecModalityConfig):
    """Speech and other sounds: convolutions over the raw waveform, convolutional relative positions, ALiBi; or patches
    of a spectrogram, fixed 2-D sin-cos positions.

    Args:
        front_end: `"convolutions"` (default), `"spectrogram"` or `"perceiver"`. The other
            defaults are those of convolutions; the preset "audio-spectrogram-base" has what is published for
            spectrograms.
        conv_dim, conv_kernel, conv_stride: the feature extractor's layers, as many entries each.
        conv_bias: give those layers a bias. Default False.
        conv_norm: `"layer"` (default): each layer has a layer norm over channels; `"group"`: only the first layer has
            a norm, of each channel over time (wav2vec 2.0 base).
        conv_dropout: after each of those layers. Default 0.
        sampling_rate: of the recordings, in Hz. Default 16000.
        conv_pos_depth, conv_pos_width, conv_pos_groups: layers of the position encoder, their total width in frames,
            and their groups. Default 5, 95, 16.
        conv_pos_pre_norm: normalise the input of the position encoder. Default False.

    Args (of the spectrogram front end):
        mel_bins: bands of the spectrogram. Default 128.
        mel_window, mel_hop: samples in a frame of it, and from one to the next. Default 400 and 160: 25 and 10 ms.
        mel_mean, mel_std: of the log energies of the training data, which are brought to mean 0 and deviation 0.5.
            Default -4.268 and 4.569, those of AudioSet, for waveforms between -1 and 1.
        patch_frames, patch_bins: frames and bands in a patch. Default 16 and 16.

    Args (what the task heads for speech add):
        vocab_size, pad_token_id: characters of a transcript, and which of them is the blank of CTC. Default 32 and 0.
            Both belong to the tokenizer, and may be given on loading:
            `AutoModelForCTC.from_pretrained(folder, vocab_size=40, pad_token_id=39)`.
        feat_proj_dropout: after the projection of the audio features, in every model. Default 0.
        final_dropout: before the output layer of CTC. Default 0.
        apply_spec_augment: hide spans of time and of channels while a head is trained (Park et al. 2019). Default
            True; False switches both off.
        mask_time_prob: spans drawn, in units of frames / `mask_time_length`: spans overlap, and 0.65 hides about half
            of the frames. Default 0.65.
        mask_time_length, mask_time_min_masks: frames in a span, and spans a recording has at least. Default 10 and 1.
            There are never more than fit side by side with a frame to spare: a recording of 10 frames has none.
        mask_feature_prob, mask_feature_length, mask_feature_min_masks: the same for the channels of the features, the
            same ones in all frames of a recording. Default 0.5, 64 and 0.
        ctc_loss_reduction: `"mean"` (default): each transcript's loss by its length, then the mean of the batch, or
            `"sum"` over the batch, the default of transformers.
        ctc_zero_infinity: a transcript too long for its recording has an infinite loss, which would end the training;
            True (default, as published) counts it as 0 instead. `ctc_min_frames` finds such transcripts.
        use_weighted_layer_sum: the classifiers read a learned average of all blocks instead of the last one. Default
            False.
        classifier_proj_size: width that features are projected to before they are pooled. Default 256.
        tdnn_dim, tdnn_kernel, tdnn_dilation: the layers over time of the x-vector head (Snyder et al. 2018), as many
            entries each. Default 512, 512, 512, 512, 1500; 5, 3, 3, 1, 1; 1, 2, 3, 1, 1.
        xvector_output_dim: width of the speaker embedding. Default 512.
    """

    model_type = "d2v_audio"
    base_config_key = "audio_config"
    modality = "audio"
    num_dims = 1
    element_channels = 1

    conv_dim: list[int] | tuple[int, ...] = (512,) * 7
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "layer"
    conv_dropout: float | int = 0.0
    sampling_rate: int = 16000
    conv_pos_depth: int = 5
    conv_pos_width: int = 95
    conv_pos_groups: int = 16
    conv_pos_pre_norm: bool = False
    mel_bins: int = 128
    mel_window: int = 400
    mel_hop: int = 160
    mel_mean: float | int = -4.268
    mel_std: float | int = 4.569
    patch_frames: int = 16
    patch_bins: int = 16

    vocab_size: int = 32
    pad_token_id: int = 0
    feat_proj_dropout: float | int = 0.0
    final_dropout: float | int = 0.0
    apply_spec_augment: bool = True
    mask_time_prob: float | int = 0.65
    mask_time_length: int = 10
    mask_time_min_masks: int = 1
    mask_feature_prob: float | int = 0.5
    mask_feature_length: int = 64
    mask_feature_min_masks: int = 0
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = True
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    tdnn_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: list[int] | tuple[int, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: list[int] | tuple[int, ...] = (1, 2, 3, 1, 1)
    xvector_output_dim: int = 512

    prenet_dropout: float | int = 0.1
    prenet_layerdrop: float | int = 0.05
    alibi: str | None = "learned"
    alibi_scale_per_head: bool = True
    mask_sampler: str = "span"
    mask_prob: float | int = 0.5
    mask_length: int = 5
    mask_prob_adjust: float | int = 0.05
    decoder_input_dropout: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        # JSON has lists only: a configuration must equal the one read back.
        for name in (*CONV_LAYERS, *TDNN_LAYERS):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    def _window(self) -> tuple[int, int]:
        return WINDOWS[self.front_end](self)

    @property
    def conv_pos_kernel(self) -> int:
        """Frames that one layer of the position encoder sees."""
        return max(3, self.conv_pos_width // max(self.conv_pos_depth, 1))

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one time step: 1, or the bands that patches of a spectrogram cut it into."""
        return self.mel_bins // self.patch_bins if self.traits.geometry == "grid" else 1

    @property
    def band_edges(self) -> list[float] | None:
        return patch_bands(self) if self.traits.geometry == "grid" else None

    @property
    def default_extent(self) -> int:
        return self.sampling_rate

    def num_frames(self, samples: Any) -> Any:
        # The last group may be incomplete.
        return -(-samples // self.group_size) if self.is_perceiver else super().num_frames(samples)

    def num_tokens(self, length: Any) -> Any:
        return self.num_frames(length) * self.tokens_per_frame

    def token_grid(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return (self.num_frames(shape[-1]), self.tokens_per_frame) if self.traits.geometry == "grid" else None

    def width_divisors(self) -> dict[str, int]:
        if self.traits.geometry == "grid":
            return {"2-D sin-cos positions": 4}
        if self.is_perceiver:
            return {}
        return {"conv_pos_groups": self.conv_pos_groups} if self.conv_pos_depth else {}

    def check(self) -> None:
        super().check()
        for names in (CONV_LAYERS, TDNN_LAYERS):
            self._check_layers(names)
        for field in ("conv_pos_width", "conv_pos_groups", "sampling_rate"):
            in_range(OWNER, field, getattr(self, field), 1)
        for field in ("mel_bins", "mel_window", "mel_hop", "patch_frames", "patch_bins"):
            in_range(OWNER, field, getattr(self, field), 1)
        if self.mel_bins % self.patch_bins:
            raise ValueError(
                f"{OWNER}: `mel_bins` ({self.mel_bins}) must be a multiple of `patch_bins` ({self.patch_bins})."
            )
        if self.mel_std <= 0:
            raise ValueError(f"{OWNER}: `mel_std` is {self.mel_std}; a deviation is positive.")
        one_of(OWNER, "conv_norm", self.conv_norm, ("layer", "group"))
        in_range(OWNER, "conv_pos_depth", self.conv_pos_depth, 0)
        below_one(OWNER, "conv_dropout", self.conv_dropout)
        self._check_heads()

    def _check_layers(self, names: tuple[str, ...]) -> None:
        counts = [len(getattr(self, name)) for name in names]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{OWNER}: {', '.join(f'`{name}`' for name in names)} need one entry a layer; they have "
                f"{', '.join(map(str, counts))}."
            )
        for name in names:
            in_range(OWNER, name, min(getattr(self, name), default=0), 1)

    def _check_heads(self) -> None:
        one_of(OWNER, "ctc_loss_reduction", self.ctc_loss_reduction, ("mean", "sum"))
        for field in ("feat_proj_dropout", "final_dropout", "mask_time_prob", "mask_feature_prob"):
            below_one(OWNER, field, getattr(self, field))
        for field in ("mask_time_min_masks", "mask_feature_min_masks"):
            in_range(OWNER, field, getattr(self, field), 0)
        sizes = "vocab_size mask_time_length mask_feature_length classifier_proj_size xvector_output_dim"
        for field in sizes.split():
            in_range(OWNER, field, getattr(self, field), 1)
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"{OWNER}: `pad_token_id` (the blank of CTC) is {self.pad_token_id}, outside a vocabulary of "
                f"{self.vocab_size} tokens; set both to those of the tokenizer."
            )
