"""The data2vec objective: student, teacher, targets, decoders and losses, in both published versions.

Shapes: B samples, M masks per sample, T tokens, V visible tokens, E extra tokens, D hidden size, C decoder width,
N predicted tokens over all samples and masks. Masks are True = masked, token masks True = real.
"""

import copy
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .backbone_pretraining import BackboneForPreTraining
from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .decoders import Decoder, make_decoder, make_shared_decoder
from .ema_teacher import EmaTeacher
from .local_encoders import LocalFeatures
from .masking import corrupt_tokens
from .modality_encoders import Tokens
from .modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel, masked_mean
from .objective import (
    Data2VecForPreTrainingOutput,
    choose_predicted,
    content_ids,
    distance,
    loss_divisor,
    normalised_patches,
    pretraining_output,
    resolve_mask,
)
from .targets import TargetMean


class Data2VecForPreTraining(EmaTeacher, Data2VecPreTrainedModel):
    """Student, teacher and decoders of data2vec 2.0 (`masked_tokens="dropped"`) or 1.0 (`"replaced"`).

    The teacher and the number of its updates (`ema_step`) are part of the state dict: a resumed run needs nothing else
    from the model. When a plain encoder is loaded, the teacher starts as a copy of it.

    Args:
        config: Configuration of the encoder, and of mask, decoder, targets and scope of the teacher per modality.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.data2vec = Data2VecModel(config)
        self.teacher = self._make_teacher(config)
        self.decoders = nn.ModuleDict()
        for name in config.modalities:
            self.decoders[name] = make_decoder(config, config.modality_config(name))
        if config.shared_decoder is not None:
            self.decoders["shared"] = make_shared_decoder(config)
        self.target_statistics = self._make_statistics()
        self.register_buffer("ema_step", torch.zeros((), dtype=torch.int64))
        self.post_init()
        self.reset_teacher()

    @staticmethod
    def _make_teacher(config: Data2VecConfig) -> Data2VecModel:
        """Return an encoder without the parts that it shares with the student."""
        teacher = Data2VecModel(config)
        for name in config.modalities:
            scope = config.modality_config(name).ema_scope
            if scope == "blocks":
                del teacher.modality_encoders[name]
                continue
            teacher.modality_encoders[name].mask_token = None
            if scope == "context":
                teacher.modality_encoders[name].local_encoder = None
        return teacher.eval()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Decoder) and not module.normal_projection:
            for layer in module.projection:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()

    @staticmethod
    def from_backbone(
        model: PreTrainedModel | str | PathLike, tokenizer: Any = None, **settings: Any
    ) -> BackboneForPreTraining:
        """Apply the objective of 1.0 to any encoder of transformers; see `BackboneForPreTraining.from_backbone`.
        Example:
            >>> model = Data2VecForPreTraining.from_backbone("FacebookAI/roberta-base")
            >>> model.trained_encoder().save_pretrained("continued")  # a RobertaModel again
        """
        return BackboneForPreTraining.from_backbone(model, tokenizer, **settings)

    @property
    def student(self) -> Data2VecModel:
        return self.data2vec

    @torch.no_grad()
    def trained_encoder(self, weights: str = "student") -> Data2VecModel:
        """Return the encoder without decoders, for use after pretraining.

        Args:
            weights: "student" for the trained encoder, or "teacher" for a copy with the averaged weights; what is not
                averaged (see `ema_scope`) is the student's.
        """
        if weights not in ("student", "teacher"):
            raise ValueError(f'`weights` is {weights!r}; it must be "student" or "teacher".')
        if weights == "student":
            return self.data2vec
        encoder = copy.deepcopy(self.data2vec)
        for name, parameter in self.teacher.named_parameters():
            encoder.get_parameter(name).copy_(parameter)
        return encoder

    def get_input_embeddings(self) -> nn.Module | None:
        return self.data2vec.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.data2vec.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the table as in transformers, and the teacher's own copy of it."""
        table = super().resize_token_embeddings(*args, **kwargs)
        if self.config.text_config.front_end == "perceiver":
            return table
        if "text" in self.teacher.modality_encoders and self.teacher.modality_encoders["text"].local_encoder:
            local = self.teacher.modality_encoders["text"].local_encoder
            kept = min(len(local.token_embeddings.weight), len(table.weight))
            renewed = copy.deepcopy(table).requires_grad_(False)
            renewed.weight[:kept] = local.token_embeddings.weight[:kept]
            local.token_embeddings = renewed
        return table

    # Teacher

    def _is_copied(self, name: str) -> bool:
        for modality in self.config.modalities:
            if name.startswith(f"modality_encoders.{modality}."):
                return any(part in name for part in self.config.modality_config(modality).ema_copied or ())
        return False

    @torch.no_grad()
    def teacher_targets(
        self, modality: str, inputs: Tensor, attention_mask: Tensor | None, local: LocalFeatures
    ) -> Tensor:
        """Return targets (B, T, D) of the unmasked input (paper 2022, section 3.3), in fp32.

        Args:
            modality: Name of the modality.
            inputs, attention_mask: As given to `forward`.
            local: The student's local features, used where the teacher has no local encoder of its own.
        """
        settings = self.config.modality_config(modality)
        student = self.data2vec.modality_encoders[modality]
        encoder = student if settings.ema_scope == "blocks" else self.teacher.modality_encoders[modality]
        if settings.ema_scope == "all":
            local = self.teacher.local_features(encoder, inputs, attention_mask)
        dtype = (self.data2vec if encoder is student else self.teacher).dtype
        features = local.features if local.clean is None else local.clean
        local = replace(local, features=features.detach().to(dtype), clean=None)
        real = None if self.config.fairseq_compatible_padding else local.token_mask
        scales = [block.layer_scale2 for block in self.teacher.encoder.blocks] if settings.scaled_targets else ()
        running, to_tokens = self.running_norm(modality), encoder.to_tokens(local)
        targets = TargetMean(settings, self.config.num_hidden_layers, real, scales, running, to_tokens)
        self.teacher.encode(encoder, local, on_layer=targets)
        return targets.result()

    # Objective

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        array_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        step: int | None = None,
        num_items: Tensor | int | None = None,
        num_rows: Tensor | int | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Data2VecForPreTrainingOutput:
        """Compute the loss of a batch of one modality.

        Args:
            input_ids, pixel_values, input_values, array_values, attention_mask: As for `Data2VecModel`;
                images are not padded.
            mask: (B, M, T) bool, True = masked. Default: drawn by the configuration.
            sample_ids: (B,) ids of the samples, for masks drawn here. Default: a hash of their content.
            step: Optimizer step, for masks drawn here. Default: the number of teacher updates.
            num_items: Predicted tokens over all processes and accumulated batches, see `num_predicted`. Default: those
                of this batch.
            num_rows: Samples times masks over all processes and accumulated batches, for `cls_loss_rows`.
            return_loss: Ignored: `Trainer` evaluates models that have this argument.

        Returns:
            `Data2VecForPreTrainingOutput`.

        Raises:
            ValueError: No or several inputs are given, or shapes are wrong.
        """
        self._watch_teacher()
        modality, inputs = self.data2vec.select_input(
            input_ids=input_ids, pixel_values=pixel_values, input_values=input_values, array_values=array_values
        )
        settings, encoder = self.config.modality_config(modality), self.data2vec.modality_encoders[modality]
        if modality == "vision" and attention_mask is not None:
            raise ValueError("Images are not padded in pretraining: call the model without `attention_mask`.")
        local = self.data2vec.local_features(encoder, inputs, attention_mask)
        key = {
            "seed": self.config.mask_seed,
            "step": self.ema_step if step is None else step,
            "sample_ids": content_ids(inputs, attention_mask) if sample_ids is None else sample_ids,
        }
        mask = resolve_mask(
            mask, settings, local.features, local.token_mask, local.grid, key, self.config.fairseq_compatible_padding
        )

        targets = self.teacher_targets(modality, inputs, attention_mask, local)
        (tokens, hidden), recorded = self._encode_student(modality, inputs, attention_mask, local, mask, key, **kwargs)
        predicted = choose_predicted(settings, mask, key)
        predictions = self._predict(modality, hidden, tokens, local, predicted, key)
        masked_targets = targets[:, None].expand(-1, mask.shape[1], -1, -1)[predicted]

        total = loss_divisor(predicted, num_items)
        regression = self._distance(settings, predictions, masked_targets) / total
        losses = {"regression": regression * settings.regression_loss_weight}
        first = predictions
        if self.config.shared_decoder is not None:
            first = self._predict_shared(modality, hidden, tokens, local, mask, predicted, key)
            regression = self._distance(settings, first, masked_targets) / total
            losses["shared_regression"] = regression * settings.regression_loss_weight
        if settings.cls_loss_weight:
            weight = settings.cls_loss_weight
            if settings.cls_loss_rows is not None:
                weight = weight * settings.cls_loss_rows / (hidden.shape[0] if num_rows is None else num_rows)
            losses["cls"] = weight * self._cls_distance(settings, hidden, targets, local, mask)
        if getattr(settings, "reconstruction_loss_weight", 0):
            pixels = normalised_patches(inputs, settings.patch_size)[:, None]
            pixels = pixels.expand(-1, mask.shape[1], -1, -1)[predicted]
            error = distance(settings, pixels.shape[-1], self.decoders[modality].reconstruction(first), pixels)
            losses["reconstruction"] = settings.reconstruction_loss_weight * error / total
        return pretraining_output(
            losses,
            predictions,
            masked_targets,
            mask,
            local.features,
            local.token_mask,
            predicted=predicted,
            **recorded,
        )

    def _encode_student(
        self,
        modality: str,
        inputs: Tensor,
        attention_mask: Tensor | None,
        local: LocalFeatures,
        mask: Tensor,
        key: dict[str, Any],
        **kwargs: Any,
    ) -> tuple[tuple[Tokens, Tensor], dict[str, tuple[Tensor, ...]]]:
        """Encode visible tokens only (2.0), or all with masked ones replaced before tokens mix (1.0).

        Returns:
            Result of `Data2VecModel.encode`, and the hidden states and attentions that are asked for.
        """
        encoder = self.data2vec.modality_encoders[modality]
        drop = self.config.masked_tokens == "dropped"
        if drop or not encoder.config.traits.corrupts_input:
            return self._recorded(encoder, local, mask, drop, **kwargs)
        settings, repeats = encoder.config, mask.shape[1]
        corrupted = corrupt_tokens(
            inputs,
            mask,
            mask_token_id=settings.mask_token_id,
            vocab_size=settings.vocab_size,
            random_prob=settings.mask_random_prob,
            keep_prob=settings.mask_keep_prob,
            special_ids=(settings.pad_token_id, settings.bos_token_id, settings.eos_token_id),
            **key,
        ).flatten(0, 1)
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(repeats, dim=0)
        return self._recorded(encoder, encoder.local_encoder(corrupted, attention_mask), **kwargs)

    def _recorded(self, *args: Any, **kwargs: Any) -> tuple[tuple[Tokens, Tensor], dict[str, tuple[Tensor, ...]]]:
        names = ("output_hidden_states", "output_attentions")
        if not any(kwargs.get(name, getattr(self.config, name)) for name in names):
            return self.data2vec.encode(*args, **kwargs), {}  # not recorded, which cannot be compiled
        recorded = self.data2vec.encode_recorded(*args, return_dict=True, **kwargs)
        return recorded.pop("encoded"), recorded

    def _predict(
        self,
        modality: str,
        hidden: Tensor,
        tokens: Tokens,
        local: LocalFeatures,
        predicted: Tensor,
        key: dict[str, Any],
    ) -> Tensor:
        """Return predictions (N, D) at the tokens `predicted` (B, M, T); only these are projected."""
        decoder = self.decoders[modality]
        # Where only a part is predicted, the decoder's queries are that part.
        features = decoder.features(hidden, tokens, local, predicted, key)
        return decoder.projection(features[predicted.flatten(0, 1)])

    def _predict_shared(
        self,
        modality: str,
        hidden: Tensor,
        tokens: Tokens,
        local: LocalFeatures,
        mask: Tensor,
        predicted: Tensor,
        key: dict[str, Any],
    ) -> Tensor:
        """Return the predictions (N, D) of the decoder that all modalities share, from the same input."""
        own, shared = self.decoders[modality], self.decoders["shared"]
        features = shared.decode(own.restore(hidden, tokens, mask, key), own.real_tokens(local, mask), local.grid)
        return shared.projection(features[predicted.flatten(0, 1)])

    def _distance(self, settings: Data2VecModalityConfig, predictions: Tensor, targets: Tensor) -> Tensor:
        return distance(settings, self.config.hidden_size, predictions, targets)

    def _cls_distance(
        self, settings: Data2VecModalityConfig, hidden: Tensor, targets: Tensor, local: LocalFeatures, mask: Tensor
    ) -> Tensor:
        """Return the loss of the mean target's regression by the last extra token (paper 2023, section 3.4)."""
        real = None if self.config.fairseq_compatible_padding else local.token_mask
        real = torch.ones_like(mask[:, 0]) if real is None else real
        mean = masked_mean(targets, real).repeat_interleave(mask.shape[1], dim=0)
        return self._distance(settings, hidden[:, settings.num_extra_tokens - 1], mean)
