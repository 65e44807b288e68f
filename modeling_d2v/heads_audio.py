"""Task heads for speech: recognition (CTC), classification of recordings and frames; speakers: heads_xvector.py.
Shapes: B samples, T frames, D hidden size, L labels, W tokens of the vocabulary. Padding changes neither the logits of
real frames nor a loss, on either side (on the left in multiples of `frame_stride`). In training, spans of
time and of channels of the input are hidden (`spec_augment.py`).
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .ctc import ctc_loss
from .heads import (
    IGNORED,
    Data2VecHead,
    check_class_ids,
    check_numbers,
    cross_entropy,
    selected_states,
    sequence_loss,
)
from .modeling_data2vec import Data2VecModelOutput, masked_mean
from .spec_augment import SpecAugment


class LayerSum(nn.Module):
    """Learned weighted mean of the input of the shared blocks and the output of each."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((num_layers + 1,), 1 / (num_layers + 1)))

    def forward(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        weights = self.weights.softmax(dim=0).to(hidden_states[0].dtype)
        return sum(weight * hidden for weight, hidden in zip(weights, hidden_states, strict=True))


class Data2VecAudioHead(Data2VecHead):
    """Base of the heads for speech."""

    modality = "audio"
    main_input_name = "input_values"
    input_modalities = ("audio",)

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        audio = self.config.audio_config
        self.num_extra = audio.num_extra_tokens
        self.layer_sum: LayerSum | None = None
        if audio.apply_spec_augment:
            self.data2vec.modality_encoders["audio"].augment = SpecAugment(audio)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerSum):
            init.constant_(module.weights, 1 / len(module.weights))

    def make_layer_sum(self) -> LayerSum | None:
        """Return the weighted mean of layers, None unless configured."""
        return LayerSum(self.config.num_hidden_layers) if self.config.audio_config.use_weighted_layer_sum else None

    def encode(
        self,
        input_values: Tensor | None,
        attention_mask: Tensor | None,
        mask_time_indices: Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Data2VecModelOutput, Tensor, Tensor]:
        """Run the encoder.

        Returns:
            Its output, the hidden states (B, T, D) of the frames, averaged where a time step has several tokens, and
            the mask of real frames (B, T).
        """
        tokens_per_frame = self.config.audio_config.tokens_per_frame
        if mask_time_indices is not None and tokens_per_frame > 1:
            mask_time_indices = mask_time_indices.repeat_interleave(tokens_per_frame, dim=1)
        wanted = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        if self.layer_sum is not None:
            kwargs["output_hidden_states"] = True
        output = self.data2vec(
            input_values=input_values,
            attention_mask=attention_mask,
            mask=mask_time_indices,
            return_dict=True,
            **kwargs,
        )
        hidden = output.last_hidden_state if self.layer_sum is None else self.layer_sum(output.hidden_states)
        output.hidden_states = selected_states(output.hidden_states, wanted)
        hidden, real = hidden[:, self.num_extra :], output.attention_mask[:, self.num_extra :].bool()
        if tokens_per_frame > 1:
            hidden = hidden.unflatten(1, (-1, tokens_per_frame)).mean(dim=2)
        return output, hidden, real[:, ::tokens_per_frame]


class Data2VecForCTC(Data2VecAudioHead):
    """Speech recognition: dropout and a linear layer from each frame to the tokens and the blank.

    The vocabulary is the tokenizer's: `Data2VecForCTC.from_pretrained(folder, vocab_size=len(tokenizer),
    pad_token_id=tokenizer.pad_token_id)`, or the same fields in `audio_config`. The blank is `pad_token_id`.
    """

    instead_of_generation = "Transcripts are `processor.batch_decode(model(**inputs).logits)`."

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        audio = self.config.audio_config
        self.blank = audio.pad_token_id
        self.dropout = nn.Dropout(audio.final_dropout)
        self.lm_head = nn.Linear(self.config.hidden_size, audio.vocab_size)
        self.loss_settings = {
            "blank": self.blank,
            "reduction": audio.ctc_loss_reduction,
            "zero_infinity": audio.ctc_zero_infinity,
        }
        self.post_init()

    def get_output_embeddings(self) -> None:
        """Return None: `lm_head` predicts characters and is unrelated to the input embedding."""

    def silence_padding(self, logits: Tensor, real: Tensor) -> Tensor:
        """Return the logits (B, T, W) with padding frames set to certain blanks, which decode to nothing."""
        others = torch.arange(logits.shape[-1], device=logits.device) != self.blank
        return logits.masked_fill(~real[..., None] & others, torch.finfo(logits.dtype).min)

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        """Compute logits (B, T, W), at padding the lowest finite number for every token but the blank.

        Args:
            input_values, attention_mask: (B, samples).
            mask_time_indices: (B, T) bool, True = frame hidden, instead of those drawn in training.
            labels: (B, S) token ids. -100 and the blank are padding; a transcript may be empty. One that needs more
                frames than there are (`ctc_min_frames`) has an infinite loss, or 0 with `ctc_zero_infinity`.
            num_items_in_batch: Labels of the whole step where gradients are accumulated, see `ctc_loss`.

        Raises:
            ValueError: The labels do not fit the vocabulary.
        """
        output, hidden, real = self.encode(input_values, attention_mask, mask_time_indices, **kwargs)
        logits = self.lm_head(self.dropout(hidden))
        if attention_mask is None:
            real = None
        else:
            logits = self.silence_padding(logits, real)
        loss = None
        if labels is not None:
            loss = ctc_loss(logits, labels, real, num_items=num_items_in_batch, **self.loss_settings)
        return CausalLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class Data2VecForAudioClassification(Data2VecAudioHead):
    """Classifier of a recording from the mean of its projected frames; see `sequence_loss` for the kinds of labels."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        width = self.config.audio_config.classifier_proj_size
        self.layer_sum = self.make_layer_sum()
        self.projector = nn.Linear(self.config.hidden_size, width)
        self.classifier = nn.Linear(width, self.config.num_labels)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Compute logits (B, L).

        Args:
            input_values, attention_mask: (B, samples).
            mask_time_indices: (B, T) bool, True = frame hidden, instead of those drawn in training.
            labels: (B,) class ids or numbers, or (B, L) numbers or flags.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: The labels do not fit `num_labels` and `problem_type`.
        """
        output, hidden, real = self.encode(input_values, attention_mask, mask_time_indices, **kwargs)
        logits = self.classifier(masked_mean(self.projector(hidden), real))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class Data2VecForAudioFrameClassification(Data2VecAudioHead):
    """Classifier of each frame by a linear layer, as in diarization; see `frame_loss` for the kinds of labels."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.layer_sum = self.make_layer_sum()
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Compute logits (B, T, L).

        Args:
            input_values, attention_mask: (B, samples).
            mask_time_indices: (B, T) bool, True = frame hidden, instead of those drawn in training.
            labels: (B, T) class ids, or (B, T, L) flags; -100 where a frame has none. T is
                `config.audio_config.num_frames(samples)`.
            num_items_in_batch: Elements of `labels` other than -100 in the whole step, where gradients are
                accumulated.

        Raises:
            ValueError: The labels do not fit the frames, `num_labels` or `problem_type`.
        """
        output, hidden, real = self.encode(input_values, attention_mask, mask_time_indices, **kwargs)
        logits = self.classifier(hidden)
        loss = None if labels is None else frame_loss(self.config, logits, labels, real, num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


def frame_loss(
    config: Data2VecConfig, logits: Tensor, labels: Tensor, real: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """Compute the loss of labelled frames, in float32, without padding frames and those labelled -100.

    With `problem_type="multi_label_classification"` (speakers may talk at once), or one label only, flags are
    predicted independently; otherwise each frame has one class, given as an id or a one-hot vector.

    Args:
        config: `num_labels` (L) and `problem_type` are read.
        logits: (B, T, L).
        labels: (B, T) class ids, or (B, T, L) flags.
        real: (B, T) bool.
        num_items: Elements of `labels` other than -100 in the whole step; default: those here.

    Raises:
        ValueError: The labels do not fit.
    """
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    flags = labels.shape == logits.shape or (config.num_labels == 1 and labels.shape == logits.shape[:2])
    if not flags and (several or labels.shape != logits.shape[:2]):
        wanted = tuple(logits.shape) if several else f"{tuple(logits.shape[:2])} or {tuple(logits.shape)}"
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)}; a batch of {logits.shape[0]} samples with {logits.shape[1]} "
            f"frames and `num_labels={config.num_labels}` takes {wanted}. Pad the labels of shorter recordings with "
            f"{IGNORED}; `audio_config.num_frames` gives the frames of a waveform."
        )
    labels = labels.to(logits.device)
    if several:
        labels = labels.view_as(logits)
        keep = real[..., None] & (labels != IGNORED)
        check_numbers(labels.masked_fill(~keep, 0), flags=True)
        losses = F.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0).float(), reduction="none")
        return (losses * keep).sum() / (keep.sum().clamp(min=1) if num_items is None else num_items)
    if flags:
        labels, num_items = class_ids(labels), None if num_items is None else num_items / config.num_labels
    check_class_ids(labels, config.num_labels)
    labels = labels.masked_fill(~real, IGNORED)
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), num_items)


def class_ids(flags: Tensor) -> Tensor:
    """Return the class ids (B, T) of one-hot vectors (B, T, L), -100 where a vector holds it."""
    ignored = (flags == IGNORED).any(dim=-1)
    if flags.device.type == "cpu" and not torch.compiler.is_compiling():
        if not (ignored | (((flags != 0).sum(dim=-1) == 1) & (flags == 1).any(dim=-1))).all():
            raise ValueError(
                "`labels` holds frames without exactly one class. If classes may coincide or be absent, set "
                '`problem_type="multi_label_classification"` in the configuration.'
            )
    return flags.argmax(dim=-1).masked_fill(ignored, IGNORED)
