"""Configuration of images: front end, mask, decoder and targets for pretraining, and the task heads."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_checks import below_one, in_range, one_of
from .configuration_modalities import Data2VecModalityConfig


@strict
class Data2VecVisionConfig(Data2VecModalityConfig):
    """Images: patch embedding, fixed 2-D sin-cos positions (2.0) or a shared relative position bias (1.0).

    Args:
        image_size: Side in pixels that positions and the relative bias are made for. Default 224.
        patch_size: Side of a patch in pixels. Default 16.
        num_channels: 3 for colour, 1 for grey. Default 3.
        embed_dim: Width of the patch embedding; `None` for `hidden_size`, otherwise a linear layer widens it.
        position_embedding: `"sincos_2d"` or `"none"`.
        relative_position_bias: BEiT's learned bias, shared by all layers (data2vec 1.0). Default False.
        relative_position_bias_per_layer: A table for each layer instead, as BEiT's fine-tuning has it. Default False.
        reconstruction_loss_weight: Weight of a second loss, the error of the pixels of masked patches (MAE, He et al.
            2022), each patch at mean 0 and variance 1, predicted from the predicted targets. Default 0.
        use_mean_pooling: Classify the mean of the patches, normalised after pooling (default), or the last extra
            token. `classifier_dropout`: before the classifier, default 0.
        pooling_start: Patches at the beginning that the mean leaves out, as fairseq's classifier of 1.0 does with one.
            Default 0.
        pool_scales: Sides of the grids that the segmentation head pools the deepest level to. Default 1, 2, 3, 6.
        use_auxiliary_head, auxiliary_loss_weight, auxiliary_channels, auxiliary_num_convs, auxiliary_concat_input:
            The second segmentation head, which is used in training only. Default True, 0.4, 256, 1, False.
        semantic_loss_ignore_index: Class id of pixels without a class, beside -100. Default 255.
    """

    model_type = "d2v_vision"
    base_config_key = "vision_config"
    modality = "vision"
    num_dims = 2

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    embed_dim: int | None = None
    position_embedding: str = "sincos_2d"
    relative_position_bias: bool = False
    relative_position_bias_per_layer: bool = False
    reconstruction_loss_weight: float | int = 0.0
    use_mean_pooling: bool = True
    pooling_start: int = 0
    classifier_dropout: float | int = 0.0
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float | int = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255

    num_extra_tokens: int = 1
    init_extra_token_zero: bool = False
    prenet_depth: int = 2
    mask_sampler: str = "inverse_block"
    mask_prob: float | int = 0.8
    mask_length: int = 3
    mask_prob_adjust: float | int = 0.07
    num_masks: int = 16
    decoder_layers: int = 6
    decoder_kernel_size: int = 3
    decoder_hidden_size: int = 768
    mean_target_norm: str | list[str] | tuple[str, ...] | None = "layer"
    cls_loss_weight: float | int = 0.01
    ema_scope: str = "all"

    def __post_init__(self, **kwargs: Any) -> None:
        self.pool_scales = list(self.pool_scales)  # JSON has lists only
        super().__post_init__(**kwargs)

    def check(self) -> None:
        super().check()
        for field in ("image_size", "patch_size", "num_channels", "auxiliary_channels", "auxiliary_num_convs"):
            in_range("Data2VecVisionConfig", field, getattr(self, field), 1)
        if self.embed_dim is not None:
            in_range("Data2VecVisionConfig", "embed_dim", self.embed_dim, 1)
        one_of("Data2VecVisionConfig", "position_embedding", self.position_embedding, ("sincos_2d", "none"))
        if self.alibi is not None and self.relative_position_bias:
            raise ValueError("Data2VecVisionConfig: choose either `alibi` or `relative_position_bias`, not both.")
        if self.relative_position_bias_per_layer and not self.relative_position_bias:
            raise ValueError(
                "Data2VecVisionConfig: `relative_position_bias_per_layer` needs `relative_position_bias=True`."
            )
        if not self.use_mean_pooling and not self.num_extra_tokens:
            raise ValueError(
                "Data2VecVisionConfig: without `use_mean_pooling` images are classified by their extra token; set "
                "`num_extra_tokens` to 1."
            )
        in_range("Data2VecVisionConfig", "pooling_start", self.pooling_start, 0)
        below_one("Data2VecVisionConfig", "classifier_dropout", self.classifier_dropout)
        for field in ("auxiliary_loss_weight", "reconstruction_loss_weight"):
            in_range("Data2VecVisionConfig", field, getattr(self, field), 0)
        in_range("Data2VecVisionConfig", "pool_scales", min(self.pool_scales, default=0), 1)
        if self.traits.geometry == "grid":
            self.grid_size(self.image_size, self.image_size)
        elif self.relative_position_bias:
            raise ValueError(
                "Data2VecVisionConfig: `relative_position_bias` needs tokens in rows and columns; with the perceiver "
                "front end set `group_size` to a power of 4."
            )
        if self.is_perceiver and self.reconstruction_loss_weight:
            raise ValueError(
                "Data2VecVisionConfig: `reconstruction_loss_weight` is for patches; set it to 0 with the perceiver "
                "front end."
            )

    @property
    def has_fixed_positions(self) -> bool:
        return self.is_perceiver or self.position_embedding == "sincos_2d"

    @property
    def default_extent(self) -> int:
        return self.image_size

    @property
    def element_channels(self) -> int:
        """Return the numbers of a pixel."""
        return self.num_channels

    def element_sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[-2:])

    def width_divisors(self) -> dict[str, int]:
        return {"2-D sin-cos positions": 4} if self.has_fixed_positions and not self.is_perceiver else {}

    def token_grid(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return self.grid_size(*shape[-2:]) if self.traits.geometry == "grid" else None

    @property
    def patch_values(self) -> int:
        """Return the numbers in a patch: pixels times channels."""
        return self.patch_size**2 * self.num_channels

    @property
    def base_grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of the configured size."""
        return self.grid_size(self.image_size, self.image_size)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of tokens down and across an image of `height` x `width` pixels.

        Raises:
            ValueError: A side is not a positive multiple of the patch size, or the tokens do not form a grid.
        """
        if self.is_perceiver:
            return self._group_grid(height, width)
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(
                f"An image of {height} x {width} pixels cannot be cut into patches of {self.patch_size} x "
                f"{self.patch_size}; resize or crop it to multiples of {self.patch_size}."
            )
        return height // self.patch_size, width // self.patch_size

    def _group_grid(self, height: int, width: int) -> tuple[int, int]:
        if not self.groups_form_grid:
            raise ValueError(
                f"Data2VecVisionConfig: with a `group_size` of {self.group_size} the tokens of an image form a line, "
                "not rows and columns; set it to a power of 4."
            )
        return self.group_counts((height, width))
