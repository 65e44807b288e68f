"""Configuration of data2vec 1.0 and 2.0 for text, vision, audio and arrays.

`Data2VecConfig` holds what every modality shares: the transformer blocks and the schedule of the teacher. One
sub-configuration per modality holds the rest, so that a joint run can set each of them on its own.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin

from .configuration_arrays import Data2VecArrayConfig
from .configuration_audio import Data2VecAudioConfig
from .configuration_checks import CheckedConfig, below_one, in_range, one_of
from .configuration_modalities import Data2VecModalityConfig, Data2VecTextConfig
from .configuration_vision import Data2VecVisionConfig
from .modalities import MODALITIES
from .presets import get_preset, preset_names
from .remote_code import AUTO_MAP, TRAVELLING_FILES


MASKED_TOKENS = ("dropped", "replaced")
SHARING = ("shared", "per_modality")
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
# Fields of the decoder that modalities may share, with their defaults.
SHARED_DECODER: dict[str, Any] = {
    "decoder_layers": 5,
    "decoder_kernel_size": 5,
    "decoder_hidden_size": 384,
    "decoder_groups": 16,
    "decoder_residual": True,
    "decoder_projection_layers": 1,
    "decoder_projection_ratio": 2.0,
}
MODALITY_CONFIGS = {
    "text": Data2VecTextConfig,
    "vision": Data2VecVisionConfig,
    "audio": Data2VecAudioConfig,
    "arrays": Data2VecArrayConfig,
}


@strict
class Data2VecConfig(BackboneConfigMixin, CheckedConfig):
    """Configuration of `Data2VecModel`, `Data2VecForPreTraining` and the task heads.

    Args:
        modalities: Which modalities the model takes, out of "text", "vision", "audio", "arrays". Default: the
            first three.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, layer_norm_eps: Sizes,
            activation and norm of the shared blocks (768, 12, 12, 3072, exact "gelu", 1e-5).
        norm_first: Pre-norm blocks and a final norm. Default False: post-norm.
        mlp_residual: Pre-norm blocks add their feed-forward part to its input. False: to itself, as the pre-norm
            blocks of fairseq's data2vec 2.0 do. Default True.
        norm_affine: The norms of the blocks, of the context and the final one have weights. Default True.
        final_norm: Keep that final norm. False for classifiers that pool before they normalise (BEiT's). Default True.
        layer_scale_init_value: Start value of the learned per-channel scale of both branches; `None` for no scale.
        norms: `"shared"`: the norms of the shared blocks, and the final one, have the same weights for all modalities;
            `"per_modality"`: each modality has its own. Default "shared".
        feed_forward: The same for the feed-forward parts of the shared blocks (modality experts, as in ONE-PEACE).
        modality_embedding: Add a learned vector of the modality to the tokens that enter the shared blocks. Default
            False.
        qk_norm: Layer norm of queries and keys in each head (Dehghani et al. 2023), which keeps attention scores small
            where training is unstable. Default False.
        hidden_dropout: Dropout after the attention's projection. `mlp_dropout`: after the feed-forward part.
            `attention_dropout`: of the attention probabilities. `activation_dropout`: between the two layers of the
            feed-forward part. Default 0.1, 0.1, 0.1, 0.
        input_dropout: Before the shared blocks, after the prenet. Default 0.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first. Default 0.
        layerdrop: Chance that a whole block is left out of a training step. Default 0.
        initializer_range: Standard deviation of new weights. Default 0.02.
        masked_tokens: `"dropped"` (2.0: the student sees visible tokens only) or `"replaced"` (1.0: masked ones become
            a learned vector, or the mask token).
        ema_decay, ema_end_decay, ema_anneal_end_step: Decay of the teacher, rising linearly over that many updates.
        shared_decoder: Fields `decoder_*` of a second decoder of convolutions over the sequence, which all modalities
            share and whose loss is added; those left out are the ones of `SHARED_DECODER`. Default `None`: there is
            none.
        mask_seed: Seed of decoder noise, of the corruption of text, and of masks that are not given to the model (the
            training programs give them, from the seed of the run).
        tie_word_embeddings: `Data2VecForMaskedLM` predicts tokens with the token embedding. Default True.
        fairseq_compatible_padding: Let padding reach convolutions, target statistics and masks as the reference does.
            Default False: the output of a sample does not depend on padding.
        out_features, out_indices: Levels that `Data2VecBackbone` returns and `Data2VecForSemanticSegmentation` reads,
            by name or number: "stem", 0, is the input of the shared blocks, "stage1", 1, the output of the first.
            Default: the last one; for segmentation those after 1/3, 1/2, 2/3 and all of the blocks, prenet included.
        text_config, vision_config, audio_config, arrays_config: Dictionaries or sub-configurations of the
            modalities present.

    Raises:
        ValueError: A setting is invalid, or a key is unknown (the message names the nearest valid one).

    Example:
        >>> config = Data2VecConfig.preset("audio-base")
        >>> config = Data2VecConfig(modalities=["vision"], hidden_size=96, num_attention_heads=4,
        ...                         intermediate_size=384, vision_config={"image_size": 32, "patch_size": 4})
    """

    model_type = "data2vec"
    sub_configs_defaults = {f"{name}_config": config for name, config in MODALITY_CONFIGS.items()}
    base_model_fsdp_plan = {"encoder.blocks.*": "free_full_weight", "encoder.norm": "keep_full_weight"}

    modalities: list[str] | tuple[str, ...] | str = ("text", "vision", "audio")
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-5
    norm_first: bool = False
    mlp_residual: bool = True
    norm_affine: bool = True
    final_norm: bool = True
    layer_scale_init_value: float | int | None = None
    norms: str = "shared"
    feed_forward: str = "shared"
    modality_embedding: bool = False
    qk_norm: bool = False
    hidden_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layerdrop: float | int = 0.0
    initializer_range: float | int = 0.02
    masked_tokens: str = "dropped"
    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.99999
    ema_anneal_end_step: int = 100_000
    shared_decoder: dict[str, Any] | None = None
    mask_seed: int = 0
    tie_word_embeddings: bool = True
    fairseq_compatible_padding: bool = False
    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    arrays_config: dict | PreTrainedConfig | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.modalities = [self.modalities] if isinstance(self.modalities, str) else list(self.modalities)
        for name in self.modalities:
            one_of("Data2VecConfig", "modalities", name, MODALITIES)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"Data2VecConfig: `modalities` is {self.modalities}; name each modality once.")
        self.modalities = [name for name in MODALITIES if name in self.modalities]
        for name in MODALITIES:
            given = getattr(self, f"{name}_config")
            if name not in self.modalities and given:
                raise ValueError(f"Data2VecConfig: `{name}_config` is given but `modalities` lacks {name!r}.")
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        levels = {name: kwargs.pop(name, None) for name in ("out_features", "out_indices")}
        super().__post_init__(**kwargs)
        if any(given is not None for given in levels.values()):
            self.set_output_features_output_indices(**levels)
        # The base class fills every sub-configuration; unused ones would be misleading in the JSON file.
        for name in MODALITIES:
            if name not in self.modalities:
                setattr(self, f"{name}_config", None)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Data2VecConfig":
        """Return a published configuration by name, such as "audio-base" (2.0) or "text-base-v1"; see `presets.py`.

        Args:
            name: One of `Data2VecConfig.preset_names()`.
            overrides: Fields that replace the published ones; dictionaries of sub-configurations are merged.

        Raises:
            ValueError: There is no such preset; the message names the nearest one.
        """
        values = get_preset(name)
        for key, value in overrides.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) and values.get(key) else value
        return cls(**values)

    @staticmethod
    def preset_names() -> list[str]:
        """Return the names that `preset` takes."""
        return preset_names()

    @property
    def stage_names(self) -> list[str]:
        """Return the names of the levels that `out_features` and `out_indices` choose from."""
        return ["stem", *(f"stage{i + 1}" for i in range(self.num_hidden_layers))]

    @BackboneConfigMixin.out_features.getter
    def out_features(self) -> list[str]:
        """Return the chosen levels by name; the last one by default."""
        return self.stage_names[-1:] if self._out_features is None else self._out_features

    @BackboneConfigMixin.out_indices.getter
    def out_indices(self) -> list[int]:
        """Return the chosen levels by number; the last one by default."""
        return [len(self.stage_names) - 1] if self._out_indices is None else self._out_indices

    def modality_config(self, modality: str) -> Data2VecModalityConfig:
        """Return the sub-configuration of a modality that this model has."""
        if modality not in self.modalities:
            raise ValueError(f"This model has no {modality!r} front end; it has {', '.join(self.modalities)}.")
        return getattr(self, f"{modality}_config")

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Return the stride of a frame in samples, which the speech pipeline reads; 1 without audio."""
        return self.audio_config.frame_stride if "audio" in self.modalities else 1

    def only(self, modality: str) -> "Data2VecConfig":
        """Return a copy for one of this model's modalities, without the sub-configurations of the others."""
        self.modality_config(modality)
        alone = copy.deepcopy(self)
        alone.modalities = [modality]
        for name in MODALITIES:
            if name != modality:
                setattr(alone, f"{name}_config", None)
        return alone

    def check(self) -> None:
        owner = "Data2VecConfig"
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            in_range(owner, field, getattr(self, field), 1)
        one_of(owner, "hidden_act", self.hidden_act, tuple(ACT2FN))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{owner}: `hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        one_of(owner, "masked_tokens", self.masked_tokens, MASKED_TOKENS)
        one_of(owner, "norms", self.norms, SHARING)
        one_of(owner, "feed_forward", self.feed_forward, SHARING)
        if self.norms == "per_modality" and not self.norm_affine:
            raise ValueError(f'{owner}: norms without weights are the same for all; set `norms` to "shared".')
        one_of(owner, "problem_type", self.problem_type, PROBLEM_TYPES)
        dropouts = "hidden_dropout mlp_dropout attention_dropout activation_dropout input_dropout drop_path_rate"
        for field in dropouts.split():
            below_one(owner, field, getattr(self, field))
        for field in ("layerdrop", "ema_decay", "ema_end_decay"):
            in_range(owner, field, getattr(self, field), 0.0, 1.0)
        for field in ("layer_norm_eps", "initializer_range", "ema_anneal_end_step"):
            in_range(owner, field, getattr(self, field), 0)
        if not self.mlp_residual and not self.norm_first:
            raise ValueError(f"{owner}: `mlp_residual=False` is for pre-norm blocks; set `norm_first` to True.")
        if self.shared_decoder is not None:
            self._check_shared_decoder()
        self.verify_out_features_out_indices()
        for name in self.modalities:
            self._check_modality(self.modality_config(name))

    def _check_shared_decoder(self) -> None:
        owner = "Data2VecConfig"
        for name in self.shared_decoder:
            one_of(owner, "shared_decoder", name, SHARED_DECODER)
        if self.masked_tokens != "dropped":
            raise ValueError(f'{owner}: `shared_decoder` belongs to data2vec 2.0; set `masked_tokens` to "dropped".')
        values = {**SHARED_DECODER, **self.shared_decoder}
        groups = values["decoder_groups"]
        for width in (self.hidden_size, values["decoder_hidden_size"]):
            if width % groups:
                raise ValueError(f"{owner}: `shared_decoder` has {groups} groups for {width} channels.")

    def _check_modality(self, settings: Data2VecModalityConfig) -> None:
        owner = type(settings).__name__
        biased = settings.alibi_num_heads
        if biased is not None and not 1 <= biased <= self.num_attention_heads:
            raise ValueError(
                f"{owner}: `alibi_num_heads` is {biased}, but there are {self.num_attention_heads} heads to bias."
            )
        k = settings.average_top_k_layers
        if k is not None and not 1 <= k <= self.num_hidden_layers:
            raise ValueError(
                f"{owner}: `average_top_k_layers` is {k}, but there are {self.num_hidden_layers} shared blocks to "
                "average (the prenet does not count)."
            )
        if settings.scaled_targets and self.layer_scale_init_value is None:
            raise ValueError(
                f"{owner}: `scaled_targets` needs blocks with a layer scale; set `layer_scale_init_value`."
            )
        if self.masked_tokens == "replaced" and getattr(settings, "reconstruction_loss_weight", 0):
            raise ValueError(
                f"{owner}: `reconstruction_loss_weight` belongs to the decoders of data2vec 2.0; set it to 0 or "
                '`masked_tokens` to "dropped".'
            )
        if not settings.latents_are_tokens:
            self._check_latents(settings)
        width = settings.decoder_hidden_size if settings.decoder_layers else self.hidden_size
        if settings.decoder_projection_layers == 0 and self.masked_tokens == "dropped" and width != self.hidden_size:
            raise ValueError(
                f"{owner}: without a projection (`decoder_projection_layers` is 0) the decoder must be as wide as the "
                f"model, but `decoder_hidden_size` is {width} and `hidden_size` {self.hidden_size}."
            )
        divisors = settings.width_divisors()
        convolves = settings.decoder_layers and settings.decoder_type == "convolutions"
        if self.masked_tokens == "dropped" and convolves:
            divisors = {"decoder_groups": settings.decoder_groups, **divisors}
        for field, divisor in divisors.items():
            if self.hidden_size % divisor:
                raise ValueError(
                    f"{owner}: `hidden_size` ({self.hidden_size}) must be a multiple of `{field}` ({divisor})."
                )

    def _check_latents(self, settings: Data2VecModalityConfig) -> None:
        """Refuse what needs a token of its own for each group of the perceiver front end."""
        owner, way_out = type(settings).__name__, "or set `anchors` to True and `latent_stride` to 1."
        fields = ("alibi", "relative_position_bias", "decoder_positions_all", "use_weighted_layer_sum")
        found = [field for field in fields if getattr(settings, field, None)]
        found += ["shared_decoder"] if self.shared_decoder is not None else []
        if found:
            raise ValueError(
                f"{owner}: `{found[0]}` needs a token at each position, but there are fewer latents: do without it, "
                f"{way_out}"
            )
        if self.masked_tokens == "replaced" and not settings.anchors:
            raise ValueError(
                f"{owner}: latents without `anchors` lie nowhere, so that none can be replaced by a mask vector: set "
                '`masked_tokens` to "dropped" or `anchors` to True.'
            )
        if self.masked_tokens == "dropped" and settings.decoder_type != "cross_attention":
            raise ValueError(
                f"{owner}: a `decoder_type` of {settings.decoder_type!r} needs a token at each position, but there "
                f'are fewer latents: set it to "cross_attention", {way_out}'
            )

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the configuration, and the code that loads the checkpoint where this package is not installed."""
        # From here on the code lies beside the configuration, even if it was loaded from elsewhere.
        self.auto_map = {**(self.auto_map or {}), **AUTO_MAP}
        repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        super().save_pretrained(save_directory, **kwargs)
        here, there = Path(__file__).resolve().parent, Path(save_directory).resolve()
        if here != there:
            for name in TRAVELLING_FILES:
                shutil.copyfile(here / name, there / name)
        if push_to_hub:
            self.push_to_hub(repo_id, **kwargs)
