"""Task heads for text: masked language modelling, sequence and token classification, question answering, choices.

There is no causal language model: blocks attend in both directions, so a token would see what it has to predict.

Shapes: B samples, T tokens, D hidden size, L labels, C choices, W tokens of the vocabulary. Class ids of -100 are left
out of a loss. Padding on either side changes neither the logits of real tokens nor a loss.
"""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .heads import IGNORED, Data2VecHead, check_class_ids, cross_entropy, sequence_loss
from .modeling_data2vec import Data2VecModelOutput
from .perceiver import ElementStates


class Data2VecTextHead(Data2VecHead):
    """Base of the heads in this file."""

    modality = "text"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        text = self.config.text_config
        self.num_extra = text.num_extra_tokens
        dropout = self.config.hidden_dropout if text.classifier_dropout is None else text.classifier_dropout
        self.dropout = nn.Dropout(dropout)

    def encode(self, input_ids: Tensor | None, attention_mask: Tensor | None, **kwargs: Any) -> Data2VecModelOutput:
        """Return the output of the encoder for token ids (B, T)."""
        for name in ("inputs_embeds", "position_ids"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"data2vec has no `{name}`: pass `input_ids`, from which positions follow.")
        return self.data2vec(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)

    def make_element_states(self) -> ElementStates | None:
        """Return what reads the states of the input ids, None where each of them is a token of the encoder."""
        text = self.config.text_config
        return ElementStates(self.config, text) if text.is_perceiver else None

    def states(
        self, output: Data2VecModelOutput, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states (B, T, D) of the input ids, and which of them are real (B, T)."""
        hidden, real = output.last_hidden_state[:, self.num_extra :], output.attention_mask[:, self.num_extra :].bool()
        if self.element_states is None:
            return hidden, real
        ids = input_ids.ne(self.config.text_config.pad_token_id) if attention_mask is None else attention_mask.bool()
        return self.element_states(hidden, real, ids), ids

    def first_token(self, output: Data2VecModelOutput) -> Tensor:
        """Return the hidden state (B, D) of the first real token: `<s>`, or an extra token where there is one.

        Of groups of bytes without an extra token it is the mean: none of them stands for the whole text.
        """
        if self.config.text_config.is_perceiver and not self.num_extra:
            return output.pooler_output
        first = output.attention_mask.argmax(dim=1)
        return output.last_hidden_state[torch.arange(first.shape[0], device=first.device), first]


class LanguageModelHead(nn.Module):
    """Dense, GELU, layer norm, and the token embedding as output matrix, with a bias."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.text_config.vocab_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(hidden_states))))


class Data2VecForMaskedLM(Data2VecTextHead):
    """Prediction of masked tokens, with the head of RoBERTa.

    data2vec does not predict tokens in pretraining: the head starts from random weights, apart from the output matrix,
    which is the token embedding (`tie_word_embeddings`).
    """

    instead_of_generation = 'Masked tokens are filled by `pipeline("fill-mask", ...)`.'

    _tied_weights_keys = {
        "lm_head.decoder.weight": "data2vec.modality_encoders.text.local_encoder.token_embeddings.weight"
    }

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.element_states = self.make_element_states()
        if self.element_states is not None:
            # The table of bytes is narrower than the hidden states.
            self.config.tie_word_embeddings, self._tied_weights_keys = False, {}
        self.lm_head = LanguageModelHead(self.config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head.decoder = new_embeddings

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Compute logits (B, T, W).

        Args:
            input_ids, attention_mask: (B, T).
            token_type_ids: Accepted and not used: data2vec has no segments.
            labels: (B, T) ids of the original tokens, -100 where there is nothing to predict.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: A label is outside the vocabulary.
        """
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.lm_head(self.states(output, input_ids, attention_mask)[0])
        loss = None
        if labels is not None:
            check_class_ids(labels, logits.shape[-1])
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class SequenceClassifier(nn.Module):
    """Dropout, dense, tanh, dropout, linear."""

    def __init__(self, config: Data2VecConfig, dropout: nn.Dropout) -> None:
        super().__init__()
        self.dropout = dropout
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first_token: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(first_token)))))


class Data2VecForSequenceClassification(Data2VecTextHead):
    """Classifier of a text, or a pair of texts, from its first token; see `sequence_loss` for the kinds of labels."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.classifier = SequenceClassifier(self.config, self.dropout)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Compute logits (B, L).

        Args:
            input_ids, attention_mask: (B, T).
            token_type_ids: Accepted and not used: data2vec has no segments.
            labels: (B,) class ids or numbers, or (B, L) numbers or flags.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: The labels do not fit `num_labels` and `problem_type`.
        """
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.first_token(output))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class Data2VecForTokenClassification(Data2VecTextHead):
    """Classifier of each token: dropout and a linear layer."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.element_states = self.make_element_states()
        self.classifier = nn.Linear(self.config.hidden_size, self.config.num_labels)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Compute logits (B, T, L).

        Args:
            input_ids, attention_mask: (B, T).
            token_type_ids: Accepted and not used: data2vec has no segments.
            labels: (B, T) class ids, -100 where a token has none.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: A class id is outside `num_labels`.
        """
        output = self.encode(input_ids, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(self.states(output, input_ids, attention_mask)[0]))
        loss = None
        if labels is not None:
            check_class_ids(labels, self.config.num_labels)
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class Data2VecForQuestionAnswering(Data2VecTextHead):
    """Question answering by a span of the text: a linear layer gives each token logits as its first and last token.

    transformers 5 has no pipeline for this: the answer is the span with the largest sum of both logits.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.element_states = self.make_element_states()
        self.qa_outputs = nn.Linear(self.config.hidden_size, 2)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Compute start and end logits (B, T), the lowest finite number at padding.

        Args:
            input_ids, attention_mask: (B, T).
            token_type_ids: Accepted and not used: data2vec has no segments.
            start_positions, end_positions: (B,) token indices of the answer. Those beyond the text (T or more, or in
                its padding), as of an answer that was cut off, are left out of the loss.

        Raises:
            ValueError: A position is negative and not -100, or start or end positions are missing.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("`start_positions` and `end_positions` belong together; one of them is missing.")
        kwargs.pop("num_items_in_batch", None)
        output = self.encode(input_ids, attention_mask, **kwargs)
        hidden, real = self.states(output, input_ids, attention_mask)
        logits = self.qa_outputs(hidden)
        start, end = logits.masked_fill(~real[..., None], torch.finfo(logits.dtype).min).unbind(dim=-1)
        loss = None
        if start_positions is not None:
            loss = (self._loss(start, start_positions, real) + self._loss(end, end_positions, real)) / 2
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @staticmethod
    def _loss(logits: Tensor, positions: Tensor, real: Tensor) -> Tensor:
        length, positions = logits.shape[1], positions.view(-1).to(logits.device, torch.long)
        inside = (positions < length) & real.gather(1, positions.clamp(0, length - 1)[:, None])[:, 0]
        positions = positions.masked_fill((positions >= 0) & ~inside, IGNORED)
        check_class_ids(positions, length, "start_positions` or `end_positions")
        return cross_entropy(logits, positions)


class Pooler(nn.Module):
    """Dense and tanh."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_token: Tensor) -> Tensor:
        return torch.tanh(self.dense(first_token))


class Data2VecForMultipleChoice(Data2VecTextHead):
    """Choice among C texts: dense, tanh, dropout and a linear layer on the first token of each."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(self.config)
        self.classifier = nn.Linear(self.config.hidden_size, 1)
        self.post_init()

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutput:
        """Compute logits (B, C).

        Args:
            input_ids, attention_mask: (B, C, T).
            token_type_ids: Accepted and not used: data2vec has no segments.
            labels: (B,) indices of the right choices.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: The input lacks the dimension of choices, or an index is outside of it.
        """
        if input_ids is not None and input_ids.dim() != 3:
            raise ValueError(
                f"`input_ids` must have shape (batch, choices, tokens); got {tuple(input_ids.shape)}. Tokenize every "
                "choice of a sample and stack them."
            )
        flat_ids, flat_mask = (x if x is None else x.flatten(0, 1) for x in (input_ids, attention_mask))
        output = self.encode(flat_ids, flat_mask, **kwargs)
        scores = self.classifier(self.dropout(self.pooler(self.first_token(output))))
        logits = scores.view(input_ids.shape[:2])
        loss = None
        if labels is not None:
            check_class_ids(labels, logits.shape[1])
            loss = cross_entropy(logits, labels.view(-1), num_items_in_batch)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )
