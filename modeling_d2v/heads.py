"""The base of the task heads: the encoder of one modality, the ways to freeze it, and the losses.

Shapes: B samples, L labels, N labelled items (samples, tokens, frames or pixels). Losses ignore class ids of -100.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.quantizers import AutoQuantizationConfig

from .configuration_data2vec import MODALITY_CONFIGS, Data2VecConfig
from .modalities import MODALITIES
from .modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel


# Children of the heads beside the encoder. Quantisation leaves them as they are: they are small, and are trained.
HEAD_PARTS = (
    "lm_head",
    "element_states",
    "classifier",
    "qa_outputs",
    "pooler",
    "projector",
    "layer_sum",
    "tdnn",
    "feature_extractor",
    "objective",
    "fc_norm",
    "pyramid",
    "decode_head",
    "auxiliary_head",
)
# Fields of quantisation configurations for modules to leave out.
_SKIPPED_MODULES = ("llm_int8_skip_modules", "modules_to_not_convert")
IGNORED = -100  # the class id that transformers' collators use for missing labels


def check_class_ids(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Check that `labels` are integers in 0 ... num_classes - 1, or -100.

    The values of labels on a GPU are not read, to avoid a synchronisation. There the loss fails with a device-side
    assertion.

    Raises:
        ValueError: A label is invalid; the message names the first one and the range.
    """
    if labels.is_floating_point():
        raise ValueError(f"`{name}` must be class ids, integers from 0 to {num_classes - 1}; got {labels.dtype}.")
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_classes))]
    if wrong.numel():
        raise ValueError(
            f"`{name}` holds {wrong[0].item()}; class ids go from 0 to {num_classes - 1}; {IGNORED} is left out of "
            "the loss. Check the label column and `num_labels`."
        )


def cross_entropy(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Compute the cross entropy of logits (N, L, ...) and class ids (N, ...), in float32.

    Args:
        num_items: Labels of the whole step, by which the sum is divided. Default: those of this batch, whose loss is 0
            if every label is -100.
    """
    count = (labels != IGNORED).sum().clamp(min=1) if num_items is None else num_items
    labels = labels.to(logits.device, torch.long)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / count


def soft_cross_entropy(logits: Tensor, probabilities: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Compute the mean cross entropy of logits (N, L) and class probabilities (N, L), in float32.

    Args:
        num_items: Entries of the probabilities in the whole step, L a sample, as `Trainer` counts them.

    Raises:
        ValueError: A row is not a distribution (checked on a CPU only, where it costs nothing).
    """
    target = probabilities.to(logits.device).float()
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (target < 0).any(dim=1) | ((target.sum(dim=1) - 1).abs() > 0.02)
        if wrong.any():
            raise ValueError(
                f"`labels` has a row {target[wrong][0].tolist()[:10]}, which is not a distribution: with "
                '`problem_type="single_label_classification"`, floating point labels are probabilities that sum to 1. '
                'For independent 0/1 flags set "multi_label_classification".'
            )
    count = logits.shape[0] if num_items is None else num_items / logits.shape[1]
    return F.cross_entropy(logits.float(), target, reduction="sum") / count


def check_numbers(labels: Tensor, flags: bool) -> None:
    """Check numeric labels: flags lie in 0 ... 1, others are finite. Values on a GPU are not read.

    Raises:
        ValueError: A label is invalid; the message names the first one.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = labels[~((labels >= 0) & (labels <= 1)) if flags else ~torch.isfinite(labels)]
    if wrong.numel():
        wanted = "flags of classes go from 0 to 1" if flags else "a regression needs numbers"
        raise ValueError(f"`labels` holds {wrong[0].item()}; {wanted}. Check the label column.")


def sequence_loss(
    config: Data2VecConfig, logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """Compute the loss of one label, number or set of labels per sample, by `config.problem_type`.

    Without a problem type it is set to "regression" if `num_labels` is 1, "single_label_classification" for integers
    and "multi_label_classification" for floating point labels. Floating point labels (B, L) are probabilities, as of
    mixup, cutmix and distillation, only if the problem type was set to "single_label_classification".

    Args:
        config: `num_labels` (L) and `problem_type` are read.
        logits: (B, L).
        labels: Class ids (B,), or numbers, 0/1 flags or probabilities (B, L). Flags of -100 are left out of the loss.
        num_items: Entries of the labels of the whole step; default: those here.

    Raises:
        ValueError: The labels do not fit the problem in shape or value.
    """
    problem = config.problem_type
    if problem is None:
        classes = "multi_label" if labels.is_floating_point() else "single_label"
        problem = "regression" if config.num_labels == 1 else f"{classes}_classification"
    single = problem == "single_label_classification"
    if single and labels.is_floating_point() and labels.shape == logits.shape:
        return soft_cross_entropy(logits, labels, num_items)
    if labels.numel() != (logits.shape[0] if single else logits.numel()):
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)}; {problem} of {logits.shape[0]} samples with "
            f"`num_labels={config.num_labels}` takes {tuple(logits.shape[:1] if single else logits.shape)}. Set "
            '`problem_type` to "single_label_classification", "multi_label_classification" or "regression".'
        )
    if single:
        check_class_ids(labels, config.num_labels)
    else:
        flags = problem != "regression"
        check_numbers(labels.masked_fill(labels == IGNORED, 0) if flags else labels, flags)
    # As in transformers, the first labels decide: the problem type is saved with the model, and later batches are
    # checked against it. Set after the checks, so that invalid labels decide nothing.
    config.problem_type = problem
    if single:
        return cross_entropy(logits, labels.view(-1), num_items)
    labels = labels.to(logits.device).float().view_as(logits)
    if problem == "regression":
        return F.mse_loss(logits.float(), labels, reduction="sum") / (
            labels.numel() if num_items is None else num_items
        )
    keep = labels != IGNORED
    total = F.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0), keep.float(), reduction="sum")
    return total / (keep.sum().clamp(min=1) if num_items is None else num_items)


def selected_states(states: tuple[Tensor, ...] | None, asked: bool | int | list[int] | None) -> tuple | None:
    """Return the hidden states that `output_hidden_states` asks for: all, or None where a number is not chosen."""
    if asked is None or asked is False or states is None:
        return None
    if asked is True:
        return states
    chosen = {i % len(states) for i in ([asked] if isinstance(asked, int) else asked)}
    return tuple(state if i in chosen else None for i, state in enumerate(states))


class Data2VecHead(Data2VecPreTrainedModel):
    """Base of the task heads: `self.data2vec` with the front end of the head's own modality only.

    A head loads only its modality from a joint checkpoint: unused front ends would cost memory and break distributed
    engines. `config.modalities` of the head is that modality.

    Raises:
        ValueError: The configuration lacks the modality.
    """

    modality: ClassVar[str]

    def __init__(self, config: Data2VecConfig) -> None:
        if self.modality not in config.modalities:
            raise ValueError(
                f"{type(self).__name__} works on {self.modality} (`{MODALITIES[self.modality].input_name}`), but this "
                f"checkpoint or configuration has {', '.join(config.modalities)} only."
            )
        super().__init__(self.own_config(config))
        # The other front ends of a joint checkpoint are not loaded on purpose.
        names = "|".join(name for name in MODALITIES if name != self.modality)
        others = [rf"modality_encoders\.(?!{self.modality}\.)", rf"encoder\..*(norm|norm1|norm2|mlp)\.({names})\."]
        self._keys_to_ignore_on_load_unexpected = [*self._keys_to_ignore_on_load_unexpected, *others]
        self.data2vec = Data2VecModel(self.config)

    @classmethod
    def own_config(cls, config: Data2VecConfig) -> Data2VecConfig:
        """Return the configuration of this head: a copy that the head may change."""
        return config.only(cls.modality)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a model as in transformers; fields of the modality's configuration are accepted directly.

        With a `quantization_config` that names no modules to leave out, the head is left out.

        Example:
            >>> model = AutoModelForCTC.from_pretrained(folder, vocab_size=40, pad_token_id=39)
        """
        part = f"{cls.modality}_config"
        names = MODALITY_CONFIGS[cls.modality].own_fields() & kwargs.keys()
        given = {name: kwargs.pop(name) for name in names}
        if given and isinstance(config, PreTrainedConfig):
            config = copy.deepcopy(config)
            settings = config.modality_config(cls.modality)
            setattr(config, part, type(settings)(**{**settings.to_dict(), **given}))
        elif given:
            kwargs[part] = {**kwargs.get(part, {}), **given}
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = _without_head(kwargs["quantization_config"])
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    def freeze_base_model(self) -> None:
        """Freeze everything but the head."""
        _freeze(self.data2vec)

    def freeze_feature_encoder(self) -> None:
        """Freeze the embedding of tokens or patches, or the convolutions over waveforms.

        The projection after those convolutions is trained, as in the published fine-tuning.
        """
        _freeze(self.data2vec.modality_encoders[self.modality].local_encoder.extractor)


def _without_head(quantization: Any) -> Any:
    """Return a quantisation configuration, given as one or as its fields, that leaves the head out.

    One that names other modules is kept.
    """
    if isinstance(quantization, dict):
        quantization = AutoQuantizationConfig.from_dict(quantization)
    quantization = copy.deepcopy(quantization)
    for field in _SKIPPED_MODULES:
        if getattr(quantization, field, ()) is None:
            setattr(quantization, field, list(HEAD_PARTS))
    return quantization


def _freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False
