"""Configurations of the modalities: front end, mask, decoder, targets and scope of the teacher.

Defaults are the published base settings of data2vec 2.0 (Baevski et al. 2023; configuration files
`base_audio_only_task`, `base_images_only_task`, `base_text_only_task`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_checks import CheckedConfig, below_one, in_range, one_of
from .configuration_perceiver import PerceiverSettings
from .masking import SAMPLERS
from .modalities import MODALITIES, FrontEnd


EMA_SCOPES = ("blocks", "context", "all")
DECODER_TYPES = ("convolutions", "transformer", "cross_attention")
ALIBI_DISTANCES = ("manhattan", "euclidean", "sequence")
TARGET_NORMS = ("instance", "layer", "batch", "group", "sample", "position", "running")


def norm_names(setting: str | Sequence[str] | None) -> list[str]:
    """Return the norms of a target in the order in which they are applied, from `None`, a name or several."""
    return [] if setting is None else [setting] if isinstance(setting, str) else list(setting)


@strict
class MaskedPredictionConfig(CheckedConfig):
    """The objective over any encoder: masks, targets, loss, and what the teacher copies.

    Args:
        mask_sampler: Name in `SAMPLERS` (`masking.py`): `"random"` tokens, `"span"`s of frames, `"block"`s of patches,
            `"inverse_block"`s (blocks of patches that stay visible), or one of your own.
        mask_prob: Share of the tokens that is masked, in (0, 1).
        mask_length: Tokens in a span, or side of a block in patches.
        mask_prob_adjust: Share added when spans or blocks are drawn, to make up for those that overlap.
        mask_random_prob, mask_keep_prob: Share of the masked *text* tokens that are replaced by random ones, or
            kept (data2vec 1.0: 0.1 and 0.1). Default 0.
        num_masks: M, masks per sample that share one teacher pass (paper 2023, section 3.3).
        decoder_projection_layers: Linear layers at the end of the prediction. With 0 (vision 1.0) their input is the
            prediction.
        decoder_projection_ratio: Width of the hidden layer of a projection of several layers, in units of its input.
        average_top_k_layers: K, shared blocks averaged into the target; `None` for all of them.
        layer_target_norm, mean_target_norm: Norm of each layer's output, and of their mean: `None`, a name, or several
            in the order in which they are applied. `"instance"` normalises each channel over the tokens of a sample,
            `"layer"` each token over its channels, `"batch"` each channel over the tokens of all samples, `"group"`
            each sample over tokens and channels, `"sample"` each position and channel over the samples of a batch,
            `"position"` each position over samples and channels, `"running"` each position and channel by running
            statistics of earlier steps, which leaves nothing to predict from the position alone. Default "instance"
            and `None`.
        target_norm_decay: Decay per step of these running statistics. Default 0.9; statistics that lag far behind a
            fast teacher leave its drift in the targets, which is the same in all samples. Small batches need more.
        target_norm_bins: Positions that have running statistics of their own; later ones share those of the last.
            Default 1024.
        end_of_block_targets: Predict the block's output instead of its feed-forward part. Default False.
        loss_beta: 0 for the squared error, above 0 for the smooth L1 loss with that beta.
        loss_scale: Factor of the loss; `None` for 1 / sqrt(hidden_size).
        ema_copied: Parts of parameter names that the teacher copies from the student instead of averaging them.

    Raises:
        ValueError: A setting is invalid; the message names it and the valid values.
    """

    mask_sampler: str = "random"
    mask_prob: float | int = 0.5
    mask_length: int = 1
    mask_prob_adjust: float | int = 0.0
    mask_random_prob: float | int = 0.0
    mask_keep_prob: float | int = 0.0
    num_masks: int = 8
    decoder_projection_layers: int = 1
    decoder_projection_ratio: float | int = 2.0
    average_top_k_layers: int | None = None
    layer_target_norm: str | list[str] | tuple[str, ...] | None = "instance"
    mean_target_norm: str | list[str] | tuple[str, ...] | None = None
    target_norm_decay: float | int = 0.9
    target_norm_bins: int = 1024
    end_of_block_targets: bool = False
    loss_beta: float | int = 0.0
    loss_scale: float | int | None = None
    ema_copied: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for field in ("layer_target_norm", "mean_target_norm"):
            if isinstance(names := getattr(self, field), tuple):
                setattr(self, field, list(names))  # JSON has lists only
        super().__post_init__(**kwargs)

    def check(self) -> None:
        owner = type(self).__name__
        one_of(owner, "mask_sampler", self.mask_sampler, SAMPLERS)
        for field in ("layer_target_norm", "mean_target_norm"):
            for name in norm_names(getattr(self, field)):
                one_of(owner, field, name, (None, *TARGET_NORMS))
        if not 0 < self.mask_prob < 1:
            raise ValueError(f"{owner}: `mask_prob` is {self.mask_prob}; it must be a share between 0 and 1.")
        for field in ("mask_random_prob", "mask_keep_prob", "mask_prob_adjust"):
            in_range(owner, field, getattr(self, field), 0.0, 1.0)
        in_range(owner, "mask_random_prob + mask_keep_prob", self.mask_random_prob + self.mask_keep_prob, 0.0, 1.0)
        for field in ("mask_length", "num_masks", "target_norm_bins"):
            in_range(owner, field, getattr(self, field), 1)
        below_one(owner, "target_norm_decay", self.target_norm_decay)
        in_range(owner, "decoder_projection_layers", self.decoder_projection_layers, 0)
        in_range(owner, "loss_beta", self.loss_beta, 0.0)
        if self.decoder_projection_ratio <= 0 or (self.loss_scale is not None and self.loss_scale <= 0):
            raise ValueError(f"{owner}: `decoder_projection_ratio` and `loss_scale` must be positive.")


@strict
class Data2VecModalityConfig(PerceiverSettings, MaskedPredictionConfig):
    """Fields of every modality: objective, context encoder, decoder and scope of the teacher.

    Those of the front end "perceiver" are described in `PerceiverSettings`.

    Args:
        front_end: Name of the front end, one of those that `MODALITIES` lists for the modality. Default: the first.
        num_extra_tokens: Learned tokens put before the sequence (1 for images). Default 0.
        init_extra_token_zero: Start the first extra token at zero, the others from N(0, 1). Default True.
        prenet_depth: Transformer blocks of this modality alone, before the shared ones. Default 0.
        prenet_dropout, prenet_layerdrop, prenet_drop_path_rate: Regularisation of the prenet, each in [0, 1).
        context_norm: Layer norm before (post-norm) or after (pre-norm) the prenet. Default True for audio and images,
            for text only with a prenet.
        alibi: `None`, `"fixed"`, or `"learned"`: attention bias by distance, with a fixed or a learned scale.
        alibi_scale: Start value of that scale. Default 1.0.
        alibi_scale_per_head, alibi_scale_per_layer: One learned scale per head, per layer (prenet layers first).
        alibi_distance: `"manhattan"` or `"euclidean"`, for images, or `"sequence"`: along the sequence of patches.
        alibi_num_heads: Heads that have the bias, the first ones; `None` for all of them.
        mask_noise_std: Standard deviation of the noise at masked positions of the decoder's input. Default 0.01.
        decoder_layers, decoder_kernel_size, decoder_hidden_size, decoder_groups, decoder_residual,
            decoder_input_dropout: The convolutional decoder of 2.0. In 1.0 only the projection is used.
        decoder_type: `"convolutions"` (default), `"transformer"`: `decoder_layers` blocks of `decoder_hidden_size`, or
            `"cross_attention"`: such blocks in which positions of masked tokens attend to the visible tokens.
        decoder_num_attention_heads, decoder_intermediate_size: Of these blocks, 8 and `None` for 4 times their width.
        decoder_query_share: Share of the masked tokens that a decoder of cross-attention predicts, at least 16 of each
            mask, drawn anew in every step; its cost falls in proportion. Published are 0.05 (CAPI, Darcet et al. 2025)
            and 0.25 (CrossMAE, Fu et al. 2025). Default 1: all of them.
        decoder_positions_masked, decoder_positions_all: Add the sin-cos positions to the decoder's input, at masked
            places or at all of them. Default False.
        regression_loss_weight: Weight of the regression of the targets at masked tokens. Default 1.
        cls_loss_weight: Weight of the regression of the mean target by the last extra token, summed over
            `cls_loss_rows` rows. Default 0.
        cls_loss_rows: Number of rows (samples times masks) that the sum is scaled to: the loss is the mean over rows
            times this number. The reference sums over the rows of one device, 256 (16 images, 16 masks) for the base
            model and 128 for the larger ones, for which the published weight of 0.01 was chosen. Default `None`: a
            plain sum over all rows of the step, which grows with the batch.
        ema_scope: Parts that the teacher averages: `"blocks"` (shared blocks), `"context"` (also positions, prenet,
            norm) or `"all"` (also the local encoder).
        local_norm_eps: Eps of the layer norm of text embeddings and of the audio features. Default 1e-5.
        local_grad_scale: Factor of the gradient that reaches the local encoder (of audio its convolutions alone); with
            0 they are not trained. Default 1.0.
        scaled_targets: Predict the feed-forward part after its layer scale. Default False: before it.

    Raises:
        ValueError: A setting is invalid; the message names it and the valid values.
    """

    modality: ClassVar[str]
    # Whether the projection of the decoder starts like the linear layers of the encoder, as the reference's for text
    # does, or with PyTorch's own start values.
    normal_projection: ClassVar[bool] = False

    front_end: str | None = None
    num_extra_tokens: int = 0
    init_extra_token_zero: bool = True
    prenet_depth: int = 0
    prenet_dropout: float | int = 0.0
    prenet_layerdrop: float | int = 0.0
    prenet_drop_path_rate: float | int = 0.0
    context_norm: bool = True
    alibi: str | None = None
    alibi_scale: float | int = 1.0
    alibi_scale_per_head: bool = False
    alibi_scale_per_layer: bool = False
    alibi_distance: str = "manhattan"
    alibi_num_heads: int | None = None
    mask_noise_std: float | int = 0.01
    decoder_layers: int = 4
    decoder_kernel_size: int = 7
    decoder_hidden_size: int = 384
    decoder_groups: int = 16
    decoder_residual: bool = True
    decoder_input_dropout: float | int = 0.0
    decoder_type: str = "convolutions"
    decoder_num_attention_heads: int = 8
    decoder_intermediate_size: int | None = None
    decoder_query_share: float | int = 1.0
    decoder_positions_masked: bool = False
    decoder_positions_all: bool = False
    regression_loss_weight: float | int = 1.0
    cls_loss_weight: float | int = 0.0
    cls_loss_rows: int | None = None
    ema_scope: str = "context"
    local_norm_eps: float | int = 1e-5
    local_grad_scale: float | int = 1.0
    scaled_targets: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.front_end is None:
            self.front_end = next(iter(MODALITIES[self.modality].front_ends))
        super().__post_init__(**kwargs)

    @property
    def has_fixed_positions(self) -> bool:
        """Return whether sin-cos positions are added to the tokens before any of them is dropped."""
        return self.is_perceiver or self.traits.geometry == "grid"

    @property
    def traits(self) -> FrontEnd:
        """Return the entry of the front end in `MODALITIES`: its geometry, and what follows from it."""
        entry = MODALITIES[self.modality].front_ends[self.front_end]
        geometry = "grid" if self.groups_form_grid else "line"
        return replace(entry, geometry=geometry) if self.is_perceiver and geometry != entry.geometry else entry

    def element_sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the sides, without channels, of an unbatched input of `shape`."""
        return tuple(shape)

    def token_grid(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Return rows and columns of the tokens of an unbatched input of `shape`; None for a sequence."""
        return self.group_counts(self.element_sides(shape)) if self.is_perceiver and self.groups_form_grid else None

    def token_count(self, shape: Sequence[int]) -> int:
        """Return the tokens of an unbatched input of `shape`, without padding."""
        if self.is_perceiver:
            return math.prod(self.group_counts(self.element_sides(shape)))
        grid = self.token_grid(shape)
        return self.num_tokens(shape[0]) if grid is None else grid[0] * grid[1]

    def num_tokens(self, length: Any) -> Any:
        """Return the tokens of an input of `length` ids, samples or entries (int, integer tensor or array).

        Images and arrays of several dimensions have no length: see `token_count`.
        """
        return -(-length // self.group_size) if self.is_perceiver else length

    def width_divisors(self) -> dict[str, int]:
        """Return the required divisors of `hidden_size`, by the name of the setting that requires them."""
        return {}

    def check(self) -> None:
        super().check()
        owner = type(self).__name__
        one_of(owner, "front_end", self.front_end, MODALITIES[self.modality].front_ends)
        self.check_perceiver()
        if self.mask_sampler not in self.traits.samplers:
            raise ValueError(
                f"{owner}: `mask_sampler` is {self.mask_sampler!r}; with the {self.front_end} front end, whose tokens "
                f"form a {self.traits.geometry}, it must be one of {', '.join(map(repr, self.traits.samplers))}."
            )
        one_of(owner, "alibi", self.alibi, (None, "fixed", "learned"))
        one_of(owner, "alibi_distance", self.alibi_distance, ALIBI_DISTANCES)
        one_of(owner, "ema_scope", self.ema_scope, EMA_SCOPES)
        for field in ("prenet_dropout", "prenet_layerdrop", "prenet_drop_path_rate", "decoder_input_dropout"):
            below_one(owner, field, getattr(self, field))
        in_range(owner, "mask_noise_std", self.mask_noise_std, 0.0, 1.0)
        for field in ("decoder_kernel_size", "decoder_hidden_size", "decoder_groups", "decoder_num_attention_heads"):
            in_range(owner, field, getattr(self, field), 1)
        if self.decoder_intermediate_size is not None:
            in_range(owner, "decoder_intermediate_size", self.decoder_intermediate_size, 1)
        one_of(owner, "decoder_type", self.decoder_type, DECODER_TYPES)
        if not 0 < self.decoder_query_share <= 1:
            raise ValueError(f"{owner}: `decoder_query_share` is {self.decoder_query_share}; it must be in (0, 1].")
        if self.decoder_query_share < 1 and self.decoder_type != "cross_attention":
            raise ValueError(
                f"{owner}: a `decoder_query_share` of {self.decoder_query_share} needs a `decoder_type` of "
                '"cross_attention": other decoders compute all positions together.'
            )
        for field in ("prenet_depth", "num_extra_tokens", "decoder_layers"):
            in_range(owner, field, getattr(self, field), 0)
        for field in ("regression_loss_weight", "cls_loss_weight", "local_norm_eps", "local_grad_scale"):
            in_range(owner, field, getattr(self, field), 0.0)
        divisor = "decoder_groups" if self.decoder_type == "convolutions" else "decoder_num_attention_heads"
        if self.decoder_layers and self.decoder_hidden_size % getattr(self, divisor):
            raise ValueError(
                f"{owner}: `decoder_hidden_size` ({self.decoder_hidden_size}) must be a multiple of `{divisor}` "
                f"({getattr(self, divisor)})."
            )
        positions = self.decoder_positions_masked or self.decoder_positions_all
        if (positions or self.decoder_type == "cross_attention") and not self.has_fixed_positions:
            raise ValueError(
                f"{owner}: `decoder_positions_masked`, `decoder_positions_all` and a `decoder_type` of "
                '"cross_attention" need fixed sin-cos positions, which this front end does not have.'
            )
        if self.cls_loss_rows is not None:
            in_range(owner, "cls_loss_rows", self.cls_loss_rows, 1)
        if self.cls_loss_weight and not self.num_extra_tokens:
            raise ValueError(f"{owner}: `cls_loss_weight` needs an extra token; set `num_extra_tokens` to 1.")


@strict
class Data2VecTextConfig(Data2VecModalityConfig):
    """Text: token and position embeddings, layer norm, dropout.

    Args:
        vocab_size: Entries of the token embedding. Default 50265 (RoBERTa's byte-level BPE).
        max_position_embeddings: Longest sequence in tokens; the table has `pad_token_id + 1` rows more. Default 512.
        position_embedding: `"learned"` (default), `"sinusoidal"` (Vaswani et al. 2017) or `"none"`.
        scale_embedding: Multiply token embeddings by sqrt(hidden_size) (Vaswani et al. 2017). Default False.
        embedding_norm: Apply the layer norm to the embeddings. Default True.
        pad_token_id, bos_token_id, eos_token_id, mask_token_id: Ids of special tokens; mask `None` is the last id.
        embedding_dropout: After the norm of the embeddings. Default 0.1.
        classifier_dropout: Before the layers of a task head; `None` for `hidden_dropout`.
    """

    model_type = "d2v_text"
    base_config_key = "text_config"
    modality = "text"
    num_dims = 1
    normal_projection = True

    vocab_size: int = 50265
    max_position_embeddings: int = 512
    position_embedding: str = "learned"
    scale_embedding: bool = False
    embedding_norm: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    mask_token_id: int | None = None
    embedding_dropout: float | int = 0.1
    classifier_dropout: float | int | None = None

    context_norm: bool = False
    mask_sampler: str = "random"
    mask_prob: float | int = 0.48
    decoder_layers: int = 5
    decoder_kernel_size: int = 9
    decoder_hidden_size: int = 768
    decoder_groups: int = 1
    decoder_residual: bool = False
    decoder_projection_layers: int = 2
    decoder_input_dropout: float | int = 0.1
    loss_scale: float | int | None = 1.0
    ema_scope: str = "blocks"

    @property
    def default_extent(self) -> int:
        return self.max_position_embeddings

    def check(self) -> None:
        super().check()
        in_range("Data2VecTextConfig", "vocab_size", self.vocab_size, 1)
        in_range("Data2VecTextConfig", "max_position_embeddings", self.max_position_embeddings, 1)
        one_of("Data2VecTextConfig", "position_embedding", self.position_embedding, ("learned", "sinusoidal", "none"))
        below_one("Data2VecTextConfig", "embedding_dropout", self.embedding_dropout)
        below_one("Data2VecTextConfig", "classifier_dropout", self.classifier_dropout or 0)
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        self.check_vocabulary(self.vocab_size)

    def check_vocabulary(self, size: int) -> None:
        """Raise `ValueError` if a special token lies outside a vocabulary of `size` tokens."""
        for field in ("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id"):
            if not 0 <= getattr(self, field) < size:
                raise ValueError(
                    f"Data2VecTextConfig: `{field}` is {getattr(self, field)}, outside a vocabulary of {size} tokens."
                )
