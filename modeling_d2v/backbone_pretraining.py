"""The objective of data2vec 1.0 over any encoder of transformers: continued pretraining of models on the Hub.

The student sees the input with masked positions replaced, the teacher, a copy of the encoder with averaged weights,
sees all of it; the student predicts the mean of the normalised outputs of the teacher's top layers. The trained
encoder has the class of the given one.

Shapes: B samples, M masks per sample, T tokens (frames, patches), P prefix tokens of images, D hidden size, N masked
tokens over all samples and masks. Masks are True = masked, token masks True = real.
"""

from os import PathLike
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .arguments import main_input_first
from .backbone_configuration import BackbonePreTrainingConfig, plain_encoder
from .backbone_parts import BackboneError, load_plain, replaced_features, watched_layers
from .decoders import RegressionHead
from .ema_teacher import EmaTeacher
from .local_encoders import check_token_ids
from .masking import corrupt_tokens
from .modalities import MODALITIES, modality_of_input
from .objective import (
    Data2VecForPreTrainingOutput,
    content_ids,
    distance,
    loss_divisor,
    pretraining_output,
    resolve_mask,
)
from .refused_calls import NoGeneration
from .targets import TargetMean


class BackboneForPreTraining(NoGeneration, EmaTeacher, PreTrainedModel):
    """Student (`backbone`), teacher and prediction head over an encoder of transformers; see `from_backbone`.

    Args:
        config: Configuration of the encoder and the objective.
    """

    config: BackbonePreTrainingConfig
    config_class = BackbonePreTrainingConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"  # of the class; that of a model is the input of its modality
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: BackbonePreTrainingConfig) -> None:
        super().__init__(config)
        self.main_input_name = MODALITIES[config.modality].input_name
        self.backbone = config.make_encoder(train=True)
        self.teacher = config.make_encoder(train=True).eval()
        self.head = RegressionHead(config, config)
        has_own = not config.traits.corrupts_input and config.mask_vector is None
        self.mask_token = nn.Parameter(torch.zeros(config.hidden_size)) if has_own else None
        self.target_statistics = self._make_statistics()
        self.register_buffer("ema_step", torch.zeros((), dtype=torch.int64))
        self._no_split_modules = self.backbone._no_split_modules
        self.post_init()
        self.reset_teacher()

    @classmethod
    def from_backbone(
        cls,
        model: PreTrainedModel | str | PathLike,
        tokenizer: Any = None,
        *,
        config: BackbonePreTrainingConfig | None = None,
        **settings: Any,
    ) -> "BackboneForPreTraining":
        """Make a pretraining model around an encoder.

        Args:
            model: The encoder, or its folder or name on the Hub. It is copied, not changed.
            tokenizer: Tokenizer of a text encoder. Default: the one beside an encoder given by name.
            config: Configuration for an encoder of the same structure, instead of the search for its parts.
            settings: Fields of `BackbonePreTrainingConfig`. Others are found, or have the published values.

        Raises:
            BackboneError: A part of the encoder was not found; the message names the setting for it.
            TypeError: `model` is neither a model nor a name.
        """
        if isinstance(model, str | PathLike):
            name, model = model, AutoModel.from_pretrained(model, dtype=torch.float32)
            if tokenizer is None and config is None and modality_of_input(model.main_input_name) == "text":
                tokenizer = AutoTokenizer.from_pretrained(name)
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"`model` is a {type(model).__name__}; pass a model of transformers, its folder or its name."
            )
        model = plain_encoder(model)
        pretraining = cls(BackbonePreTrainingConfig.of(model, tokenizer, **settings) if config is None else config)
        load_plain(pretraining.backbone, model.state_dict())
        pretraining.reset_teacher()
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        pretraining.config.untrained = sorted({*frozen, *pretraining.eval().try_out()})
        pretraining._seed_teacher(set())
        return pretraining

    def _seed_teacher(self, missing: set[str]) -> None:
        super()._seed_teacher(missing)
        # Here, because loading makes new parameters. Distributed engines need a gradient of every trained one.
        for name in self.config.untrained or ():
            self.backbone.get_parameter(name).requires_grad_(False)

    @property
    def student(self) -> PreTrainedModel:
        return self.backbone

    @staticmethod
    def _weights(module: nn.Module) -> dict[str, Tensor]:
        """Return parameters and running statistics: the teacher copies the latter, which have no gradient."""
        buffers = {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
        return dict(module.named_parameters()) | buffers

    def _is_copied(self, name: str) -> bool:
        return any(part in name for part in self.config.ema_copied or ())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.mask_token is not None:
            if not getattr(self.mask_token, "_is_hf_initialized", False):
                self.mask_token.normal_(std=0.02)

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the token embedding, None for images and speech."""
        return self.backbone.get_input_embeddings() if self.config.traits.corrupts_input else None

    @torch.no_grad()
    def trained_encoder(self, weights: str = "student") -> PreTrainedModel:
        """Return a copy of the plain encoder, of the class and configuration given to `from_backbone`.

        Args:
            weights: "student", or "teacher" for the averaged weights.
        """
        if weights not in ("student", "teacher"):
            raise ValueError(f'`weights` is {weights!r}; it must be "student" or "teacher".')
        source = self.backbone if weights == "student" else self.teacher
        encoder = load_plain(self.config.make_encoder(), source.state_dict())
        return encoder.to(source.dtype).to(source.device).eval()

    def try_out(self) -> list[str]:
        """Compute the loss of a small input, to report what does not fit before any data is prepared.

        Returns:
            The names of encoder weights without a gradient.

        Raises:
            BackboneError: The output of the layers does not have one position for each token.
        """
        inputs = self.config.example(9, self.device)
        length, _, _ = self.config.tokens_of(inputs, None)
        mask = torch.arange(length, device=self.device)[None] % 2 == 0
        wanted = {name: weight for name, weight in self.backbone.named_parameters() if weight.requires_grad}
        loss = self(**{self.backbone.main_input_name: inputs}, mask=mask).loss
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return [name for name, gradient in zip(wanted, found, strict=True) if gradient is None]

    # Objective

    @main_input_first
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        sample_ids: Tensor | None = None,
        step: int | None = None,
        num_items: Tensor | int | None = None,
        num_rows: Tensor | int | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Data2VecForPreTrainingOutput:
        """Compute the loss of a batch; arguments and output are those of `Data2VecForPreTraining.forward`.

        Raises:
            ValueError: The input has another modality, a wrong shape, or ids outside the vocabulary.
        """
        self._watch_teacher()
        inputs = self._select_input(input_ids=input_ids, pixel_values=pixel_values, input_values=input_values)
        config = self.config
        if config.traits.corrupts_input:
            check_token_ids(inputs, self.get_input_embeddings())
        length, token_mask, grid = config.tokens_of(inputs, attention_mask)
        attention_mask = token_mask if config.traits.corrupts_input else attention_mask
        key = {
            "seed": config.mask_seed,
            "step": self.ema_step if step is None else step,
            "sample_ids": content_ids(inputs, attention_mask) if sample_ids is None else sample_ids,
        }
        places = torch.empty(inputs.shape[0], length, 0, device=inputs.device)
        mask = resolve_mask(mask, config, places, token_mask, grid, key)

        targets, features = self.teacher_targets(inputs, attention_mask, length, token_mask, grid)
        output = self._encode_student(inputs, attention_mask, mask, key, **kwargs)
        hidden = output.last_hidden_state
        predictions = self.head.projection(hidden[:, hidden.shape[1] - length :][mask.flatten(0, 1)])
        masked_targets = targets[:, None].expand(-1, mask.shape[1], -1, -1)[mask]
        loss = distance(config, config.hidden_size, predictions, masked_targets) / loss_divisor(mask, num_items)
        recorded = {name: getattr(output, name, None) for name in ("hidden_states", "attentions")}
        return pretraining_output(
            {"regression": loss}, predictions, masked_targets, mask, features, token_mask, **recorded
        )

    def _select_input(self, **inputs: Tensor | None) -> Tensor:
        given = [name for name, tensor in inputs.items() if tensor is not None]
        wanted = MODALITIES[self.config.modality].input_name
        if given != [wanted]:
            found = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"{self.config.encoder_class} takes `{wanted}`; {found} was given.")
        if inputs[wanted].shape[0] == 0:
            raise ValueError(f"`{wanted}` is an empty batch: its first dimension is 0.")
        return inputs[wanted]

    @torch.no_grad()
    def teacher_targets(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None,
        length: int,
        token_mask: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return fp32 targets (B, T, D) of the unmasked input and the teacher's input features (B, T, C).

        Args:
            inputs, attention_mask: As given to `forward`.
            length: T.
            token_mask: (B, T), None = all real.
            grid: Patch grid of images, whose layers may have prefix tokens.

        Raises:
            BackboneError: The layers do not have one position for each token, or another number of them ran.
        """
        config = self.config
        targets = TargetMean(config, config.num_layers, token_mask, running=self.running_norm(config.modality))
        features: list[Tensor] = []
        ran = 0

        def on_layer(output: Tensor, feed_forward: Tensor | None) -> None:
            nonlocal ran
            wanted = output if config.end_of_block_targets else feed_forward
            prefix = wanted.shape[1] - length if wanted is not None and wanted.dim() == 3 else -1
            if wanted is None or prefix < 0 or wanted.shape[2] != config.hidden_size or (prefix and grid is None):
                shape = "nothing" if wanted is None else f"the shape {tuple(wanted.shape)}"
                raise BackboneError(
                    f"Layer {ran} of `{config.layers}` in {config.encoder_class} gave {shape} for {length} tokens of "
                    f"width {config.hidden_size}. Encoders whose layers shorten or pack the sequence are not "
                    "supported; if the wrong part was found, set `layers` and `ffn_output`."
                )
            targets(ran, output[:, -length:], None if feed_forward is None else feed_forward[:, -length:])
            ran += 1

        def keep(x: Tensor) -> Tensor:
            features.append(x)
            return x

        with watched_layers(self.teacher, config.layers, config.ffn_output, on_layer):
            if config.mask_point is None:
                self._run(self.teacher, inputs, attention_mask)
                features.append(self.teacher.get_input_embeddings()(inputs))
            else:
                with replaced_features(self.teacher, config.modality, config.mask_point, keep):
                    self._run(self.teacher, inputs, attention_mask)
        if ran != config.num_layers:
            raise BackboneError(
                f"{ran} layers of `{config.layers}` in {config.encoder_class} ran, expected {config.num_layers}; "
                "set `num_layers`."
            )
        return targets.result(), features[0]

    def _encode_student(
        self, inputs: Tensor, attention_mask: Tensor | None, mask: Tensor, key: dict[str, Any], **kwargs: Any
    ) -> ModelOutput:
        """Return the encoder's output for the input with masked tokens replaced, B * M rows of P + T tokens."""
        config, repeats = self.config, mask.shape[1]
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(repeats, dim=0)
        if config.traits.corrupts_input:
            corrupted = corrupt_tokens(
                inputs,
                mask,
                mask_token_id=config.mask_token_id,
                vocab_size=config.vocab_size,
                random_prob=config.mask_random_prob,
                keep_prob=config.mask_keep_prob,
                special_ids=config.special_token_ids or (),
                **key,
            ).flatten(0, 1)
            return self._run(self.backbone, corrupted, attention_mask, **kwargs)
        own = self.mask_token if config.mask_vector is None else self.backbone.get_parameter(config.mask_vector)

        def replace(features: Tensor) -> Tensor:
            return torch.where(mask.flatten(0, 1)[..., None], own.flatten().to(features.dtype), features)

        with replaced_features(self.backbone, config.modality, config.mask_point, replace):
            return self._run(self.backbone, inputs.repeat_interleave(repeats, dim=0), attention_mask, **kwargs)

    @staticmethod
    def _run(encoder: PreTrainedModel, inputs: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> ModelOutput:
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask.long()
        return encoder(**{encoder.main_input_name: inputs}, **kwargs)
