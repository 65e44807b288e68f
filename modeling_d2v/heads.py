"""What every task head shares: the encoder of one modality, the ways to freeze it, and the losses.

Shapes: B samples, L labels, N labelled things (samples, tokens, frames or pixels). Class ids of -100 are left out of a
loss.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .configuration_data2vec import MODALITY_CONFIGS, Data2VecConfig
from .modalities import MODALITIES
from .modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel


IGNORED = -100  # the class id that transformers' collators give to what has no label


def check_class_ids(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Checks that `labels` are integers in 0 ... num_classes - 1, or -100.

    The values of labels on a GPU are not read: that would make the host wait for it. There the loss itself stops, with
    a device-side assertion.

    Raises:
        ValueError: naming the first wrong value and the range.
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
    """Cross entropy of logits (N, L, ...) and class ids (N, ...), in float32.

    Args:
        num_items: labels that the sum is divided by, where a step accumulates several batches; default: those here. A
            batch in which every label is -100 then has a loss of 0.
    """
    count = (labels != IGNORED).sum().clamp(min=1) if num_items is None else num_items
    labels = labels.to(logits.device, torch.long)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / count


def soft_cross_entropy(logits: Tensor, probabilities: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross entropy of logits (N, L) and probabilities of the classes (N, L), in float32; mean over N.

    Args:
        num_items: entries of the probabilities in the whole step, L a sample, as `Trainer` counts them.

    Raises:
        ValueError: for a row that is no distribution (on a CPU, where looking at it costs nothing).
    """
    target = probabilities.to(logits.device).float()
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (target < 0).any(dim=1) | ((target.sum(dim=1) - 1).abs() > 0.02)
        if wrong.any():
            raise ValueError(
                f"`labels` has a row {target[wrong][0].tolist()[:10]}, which is no distribution: with "
                '`problem_type="single_label_classification"`, floating point labels are probabilities that sum to 1. '
                'For independent 0/1 flags set "multi_label_classification".'
            )
    count = logits.shape[0] if num_items is None else num_items / logits.shape[1]
    return F.cross_entropy(logits.float(), target, reduction="sum") / count


def check_numbers(labels: Tensor, flags: bool) -> None:
    """Checks labels that are numbers: flags lie in 0 ... 1, others are finite. Values on a GPU are not read.

    Raises:
        ValueError: naming the first wrong value.
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
    """Loss of one label, one number or one set of labels a sample, as `config.problem_type` says.

    Without a problem type it is, and becomes, "regression" where `num_labels` is 1, "single_label_classification" for
    integers and "multi_label_classification" for floating point labels. Only a problem type that is set to
    "single_label_classification" makes floating point labels (B, L) the probabilities of one class, as mixup, cutmix
    and distillation give them.

    Args:
        config: `num_labels` (L) and `problem_type` are read.
        logits: (B, L).
        labels: class ids (B,), or numbers, 0/1 flags or probabilities (B, L).
        num_items: entries of the labels of the whole step; default: those here.

    Raises:
        ValueError: if the labels do not fit the problem in shape or value.
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
        check_numbers(labels, flags=problem != "regression")
    # The first labels decide for good, as in the heads of transformers: the problem type is saved with the model, and
    # later batches are checked against it. Set after the checks, so that labels that were refused decide nothing.
    config.problem_type = problem
    if single:
        return cross_entropy(logits, labels.view(-1), num_items)
    function = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    total = function(logits.float(), labels.to(logits.device).float().view_as(logits), reduction="sum")
    return total / (labels.numel() if num_items is None else num_items)


class Data2VecHead(Data2VecPreTrainedModel):
    """Base of the task heads: `self.data2vec` with the front end of the head's own modality only.

    A head takes its modality out of a joint checkpoint and leaves the other front ends behind: they would be dead
    weight in memory, in the optimizer and for distributed engines. `config.modalities` of the head says so.

    Raises:
        ValueError: if the configuration lacks the modality.
    """

    modality: ClassVar[str]

    def __init__(self, config: Data2VecConfig) -> None:
        if self.modality not in config.modalities:
            raise ValueError(
                f"{type(self).__name__} works on {self.modality} (`{MODALITIES[self.modality].input_name}`), but this "
                f"checkpoint or configuration has {' and '.join(config.modalities)} only."
            )
        super().__init__(self.own_config(config))
        # The other front ends of a joint checkpoint are left behind on purpose: no reason to warn.
        others = rf"modality_encoders\.(?!{self.modality}\.)"
        self._keys_to_ignore_on_load_unexpected = [*self._keys_to_ignore_on_load_unexpected, others]
        self.data2vec = Data2VecModel(self.config)

    @classmethod
    def own_config(cls, config: Data2VecConfig) -> Data2VecConfig:
        """The configuration of this head: a copy that the head may change."""
        return config.only(cls.modality)

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """As in transformers; fields of the modality's configuration may be given like those of the whole one.

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
        return super().from_pretrained(source, *args, config=config, **kwargs)

    def freeze_base_model(self) -> None:
        """Trains the head alone."""
        _freeze(self.data2vec)

    def freeze_feature_encoder(self) -> None:
        """Keep what reads the input as it is: the embedding of tokens or patches, or the convolutions over waveforms.

        The projection behind those convolutions is trained, as in the published fine-tuning.
        """
        _freeze(self.data2vec.modality_encoders[self.modality].local_encoder.extractor)


def _freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False
