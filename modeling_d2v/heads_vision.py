"""Task heads for images: classification, semantic segmentation, and a backbone for other frameworks.

Images may have other sizes than the configured one: positions are adapted.

Shapes: B images, E extra tokens, T patches in a grid of h x w, D hidden size, L labels, H x W pixels.
"""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput, ImageClassifierOutput, SemanticSegmenterOutput
from transformers.utils import TransformersKwargs, can_return_tuple

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .heads import IGNORED, Data2VecHead, check_class_ids, cross_entropy, selected_states, sequence_loss
from .modeling_data2vec import Data2VecModelOutput
from .segmentation import PYRAMID_STRIDES, AuxiliaryHead, FeaturePyramid, UperHead, resize


class Data2VecVisionHead(Data2VecHead):
    """Base of the heads in this file."""

    modality = "vision"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Not loaded if `uses_final_norm` is false.
    _keys_to_ignore_on_load_unexpected = [*Data2VecHead._keys_to_ignore_on_load_unexpected, r"encoder\.norm\."]

    @classmethod
    def own_config(cls, config: Data2VecConfig) -> Data2VecConfig:
        """Return the configuration of this head, without the final norm of pre-norm models if it is unused."""
        own = super().own_config(config)
        own.final_norm = cls.uses_final_norm(own)
        return own

    @classmethod
    def uses_final_norm(cls, config: Data2VecConfig) -> bool:
        """Return whether the head reads the encoder's output after its final norm."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def encode(self, pixel_values: Tensor | None, **kwargs: Any) -> Data2VecModelOutput:
        """Return the output of the encoder for images (B, channels, H, W)."""
        kwargs.pop("interpolate_pos_encoding", None)  # positions always follow the image
        return self.data2vec(pixel_values=pixel_values, return_dict=True, **kwargs)

    def maps(self, hidden_states: tuple[Tensor, ...], pixel_values: Tensor, numbers: list[int]) -> list[Tensor]:
        """Return the patches of selected hidden states (B, E + T, D) as maps (B, D, h, w)."""
        vision = self.config.vision_config
        grid = vision.grid_size(*pixel_values.shape[2:])
        patches = [hidden_states[i][:, vision.num_extra_tokens :] for i in numbers]
        return [x.transpose(1, 2).unflatten(2, grid) for x in patches]


class Data2VecForImageClassification(Data2VecVisionHead):
    """Classifier of images: pooling, dropout and a linear layer; see `sequence_loss` for the kinds of labels.

    With `vision_config.use_mean_pooling` (default) the mean of the patches is classified, after a layer norm of its
    own, as in the fine-tuning of both published versions; a pre-norm encoder then has no final norm. Otherwise the
    last extra token of the encoder's output is classified.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        vision, size = self.config.vision_config, self.config.hidden_size
        self.mean_pooling, self.last_extra = vision.use_mean_pooling, vision.num_extra_tokens - 1
        self.pooling_start = vision.pooling_start
        self.fc_norm = nn.LayerNorm(size, eps=self.config.layer_norm_eps) if self.mean_pooling else nn.Identity()
        self.dropout = nn.Dropout(vision.classifier_dropout)
        self.classifier = nn.Linear(size, self.config.num_labels)
        self.post_init()

    @classmethod
    def uses_final_norm(cls, config: Data2VecConfig) -> bool:
        return not config.vision_config.use_mean_pooling

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Compute logits (B, L).

        Args:
            pixel_values: (B, channels, H, W), sides multiples of the patch size.
            labels: (B,) class ids or numbers, or (B, L) numbers, flags or probabilities. Those of mixup and cutmix are
                probabilities: set `problem_type="single_label_classification"`.
            num_items_in_batch: Labels of the whole step where gradients are accumulated.

        Raises:
            ValueError: The labels do not fit `num_labels` and `problem_type`.
        """
        output = self.encode(pixel_values, **kwargs)
        pooled = output.pooler_output if self.mean_pooling else output.last_hidden_state[:, self.last_extra]
        if self.mean_pooling and self.pooling_start:
            pooled = output.last_hidden_state[:, self.last_extra + 1 + self.pooling_start :].mean(dim=1)
        logits = self.classifier(self.dropout(self.fc_norm(pooled)))
        loss = None if labels is None else sequence_loss(self.config, logits, labels, num_items_in_batch)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


class Data2VecForSemanticSegmentation(Data2VecVisionHead):
    """Semantic segmentation: a pyramid of four levels of the encoder, UperNet, and an auxiliary head.

    The levels are `config.out_indices`, by default those after 1/3, 1/2, 2/3 and all of the blocks (4, 6, 8 and 12 of
    12, as in BEiT); with few blocks some levels are used twice.
    """

    # Trainer would also count pixels without a class, so it averages over accumulated batches instead.
    accepts_loss_kwargs = False

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.taps = self._taps(self.config)
        self.pyramid = FeaturePyramid(self.config)
        self.decode_head = UperHead(self.config)
        self.auxiliary_head = AuxiliaryHead(self.config) if self.config.vision_config.use_auxiliary_head else None
        self.post_init()

    @staticmethod
    def _taps(config: Data2VecConfig) -> list[int]:
        """Return the numbers of the hidden states that the pyramid reads."""
        levels = len(PYRAMID_STRIDES)
        # The default of a backbone, the last level alone.
        if list(config.out_indices) == [config.num_hidden_layers]:
            prenet, shared = config.vision_config.prenet_depth, config.num_hidden_layers
            return [max(round((prenet + shared) * sixths / 6) - prenet, 0) for sixths in (2, 3, 4, 6)]
        if len(config.out_indices) != levels:
            raise ValueError(
                f"Segmentation reads {levels} levels of the encoder, but `out_indices` is {config.out_indices}; name "
                f"{levels} of 0 to {config.num_hidden_layers}, or leave it out."
            )
        return [i % len(config.stage_names) for i in config.out_indices]

    @known_arguments
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        """Compute logits (B, L, ...) at the finest pyramid level: for patches of 16, a quarter of the image side.

        For the loss, logits are interpolated to the size of the labels.

        Args:
            pixel_values: (B, channels, H, W), sides multiples of the patch size.
            labels: (B, H', W') class ids; -100 and `vision_config.semantic_loss_ignore_index` have no class.
            num_items_in_batch: Pixels with a class in the whole step where gradients are accumulated.

        Raises:
            ValueError: The labels have another shape or ids outside `num_labels`, or a training batch has one image.
        """
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = self.taps if asked is None or asked is False else True
        output = self.encode(pixel_values, output_hidden_states=states, **kwargs)
        levels = self.pyramid(self.maps(output.hidden_states, pixel_values, self.taps))
        logits = self.decode_head(levels)
        loss = None
        if labels is not None:
            ids = self._class_ids(labels, logits)
            loss = self._loss(logits, ids, num_items_in_batch)
            if self.auxiliary_head is not None:
                auxiliary = self._loss(self.auxiliary_head(levels), ids, num_items_in_batch)
                loss = loss + self.config.vision_config.auxiliary_loss_weight * auxiliary
        return SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=selected_states(output.hidden_states, asked),
            attentions=output.attentions,
        )

    def _class_ids(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return checked class ids, -100 where a pixel has none."""
        if self.config.num_labels < 2:
            raise ValueError("Segmentation needs `num_labels` of at least 2; with one class nothing can be learned.")
        if labels.dim() != 3 or len(labels) != len(logits):
            raise ValueError(
                f"`labels` must be class ids of shape ({len(logits)}, height, width); got {tuple(labels.shape)}."
            )
        ids = labels if labels.is_floating_point() else labels.long()
        ids = ids.masked_fill(ids == self.config.vision_config.semantic_loss_ignore_index, IGNORED)
        check_class_ids(ids, self.config.num_labels)
        return ids

    @staticmethod
    def _loss(logits: Tensor, ids: Tensor, num_items: Tensor | int | None) -> Tensor:
        return cross_entropy(resize(logits.float(), ids.shape[1:]), ids, num_items)


class Data2VecBackbone(BackboneMixin, Data2VecVisionHead):
    """Backbone that returns levels of the encoder as maps, for UperNet, Mask2Former and other frameworks.

    `config.out_features` or `config.out_indices` choose the levels, by default the last one. `AutoBackbone` of
    transformers 5.23 looks up every name on the Hub and refuses a local folder: load that with this class.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        if self.config._out_indices is None:
            self.config.set_output_features_output_indices(None, None)
        self.num_features = [self.config.hidden_size] * len(self.config.stage_names)
        self.post_init()

    @known_arguments
    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """Compute `feature_maps`, one (B, D, h, w) for each of `out_features`, as they leave the blocks.

        Args:
            pixel_values: (B, channels, H, W), sides multiples of the patch size.
        """
        output = self.encode(pixel_values, **kwargs)
        numbers = [i % len(self.stage_names) for i in self.out_indices]
        return BackboneOutput(
            feature_maps=tuple(self.maps(output.hidden_states, pixel_values, numbers)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
