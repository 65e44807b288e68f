"""Conversion of a checkpoint file of the reference implementations to a model of this package, in one call.

Example:
    >>> converted = convert_checkpoint("audio_base_ls.pt")
    >>> model = converted.build()
    >>> converted.save("data2vec-audio-base")  # without holding the weights in memory
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.conversion.fairseq.finetuned import HEADS, convert_finetuned, head_config
from modeling_d2v.conversion.fairseq.layouts import (
    config_from_fairseq,
    convert_state_dict,
    settle_fixed_scales,
)
from modeling_d2v.conversion.fairseq.sources import PRETRAINING, Source, take_apart
from modeling_d2v.conversion.files import read_checkpoint
from modeling_d2v.conversion.tensors import STUDENT, TEACHER, Assembly, TensorMismatchError, Unused, expected_shapes
from modeling_d2v.modeling_data2vec import Data2VecModel, Data2VecPreTrainedModel
from modeling_d2v.pretraining_data2vec import Data2VecForPreTraining


WEIGHTS_NAME = "model.safetensors"
_CHUNK = 1 << 22  # numbers that are checked and written at once
_SAFETENSORS_TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}


@dataclass
class Converted:
    """A converted checkpoint, whose weights are not in memory.

    Attributes:
        source: The file's content.
        model_class, config: Class and configuration of the result.
        tensors: Weights by name, each made when it is read.
        unused: Tensors of the file without a place, with the reason.
        notes: Settings of the file without a place, and assumptions that the file does not state.
    """

    source: Source
    model_class: type[Data2VecPreTrainedModel]
    config: Data2VecConfig
    tensors: Assembly
    unused: list[Unused]
    notes: list[str]

    def dtype_of(self, name: str, dtype: torch.dtype | None) -> torch.dtype:
        """Return the dtype that a tensor is stored in.

        Args:
            name: Name of the tensor.
            dtype: The requested one; `None` for that of the file. The teacher stays in float32: small steps of an
                average vanish in half precision.
        """
        own = self.tensors.meta(name).dtype
        if not own.is_floating_point:
            return own
        return torch.float32 if name.startswith(TEACHER) else dtype or own

    def read(self, dtype: torch.dtype | None = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) one after the other, as they are stored."""
        for name in self.tensors:
            yield name, self.tensors[name].to(self.dtype_of(name, dtype))

    def build(self, dtype: torch.dtype | None = torch.float32) -> Data2VecPreTrainedModel:
        """Return the model in memory, in evaluation mode."""
        state = dict(self.read(dtype))
        kept = dtype or next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
        return self.model_class.from_pretrained(None, config=self.config, state_dict=state, dtype=kept)

    def save(
        self, folder: str | PathLike, dtype: torch.dtype | None = torch.float32, *, allow_nonfinite: bool = False
    ) -> None:
        """Write weights, configuration and code into `folder`, without holding the weights in memory.

        Args:
            folder: Destination, created if it does not exist.
            dtype: See `dtype_of`.
            allow_nonfinite: Write weights that are infinite or NaN, instead of refusing them.

        Raises:
            ValueError: Weights are not finite; the message names them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        types = {name: self.dtype_of(name, dtype) for name in self.tensors}
        self.config.architectures = [self.model_class.__name__]
        floating = [kind for name, kind in types.items() if kind.is_floating_point and not name.startswith(TEACHER)]
        self.config.dtype = floating[0]
        self.config.save_pretrained(folder)
        wrong = _write(folder / WEIGHTS_NAME, self.tensors, types)
        if wrong and not allow_nonfinite:
            raise ValueError(
                f"{len(wrong)} tensors hold infinite values or NaN, among them {', '.join(wrong[:5])}. The training "
                "that wrote this checkpoint had diverged, or a value is too large for the requested dtype; use "
                "another checkpoint or float32, or set `allow_nonfinite` to convert it anyway."
            )


def convert_checkpoint(
    path: str | PathLike,
    *,
    encoder_only: bool = False,
    weights: str = "student",
    settings: Mapping[str, Any] | None = None,
    ignore_settings: Iterable[str] = (),
    kind: str | None = None,
) -> Converted:
    """Read and convert a checkpoint of fairseq (2.0 and 1.0) or of BEiT's program (1.0, images).

    Args:
        path: The file, see `read_checkpoint`.
        encoder_only: Convert only the encoder of a pretrained model (`Data2VecModel`).
        weights: Encoder for `encoder_only`, "student" or "teacher".
        settings: `cfg` of the checkpoint, or its section "model", if the file lacks it or to correct it.
        ignore_settings: Names of encoder settings to leave out.
        kind: One of `FAIRSEQ_KINDS` (`layouts.py`), for weights whose names do not tell it. A model of 1.0 without
            settings is then converted with those of the published model; what was assumed is noted.

    Returns:
        `Data2VecForPreTraining` with teacher and decoders for a pretrained model, `Data2VecForCTC`,
        `Data2VecForImageClassification` or `Data2VecForSequenceClassification` for a fine-tuned one.

    Raises:
        ValueError: The file is damaged, unsafe, of another model, or does not fit its settings.
        FileNotFoundError: There is no such file.
    """
    if weights not in ("student", "teacher"):
        raise ValueError(f'`weights` is {weights!r}; it must be "student" or "teacher".')
    if weights == "teacher" and not encoder_only:
        raise ValueError('`weights="teacher"` needs `encoder_only`: a model to pretrain further holds both.')
    content = read_checkpoint(path)
    if settings is not None:
        content["cfg"] = settings if "model" in settings else {"model": settings}
    source = take_apart(content, str(path), ignore_settings, kind)
    try:
        converted = _convert(source, encoder_only, weights)
        converted.notes += [source.assumed] if source.assumed else []
        unknown = getattr(content, "unknown", ())
        if unknown:
            converted.notes.append(
                f"Objects of classes that are not known here were read as their attributes, and none of their code "
                f"was run: {', '.join(unknown[:10])}."
            )
        return converted
    except (TypeError, ValueError) as error:
        advice = ""
        if isinstance(error, TensorMismatchError):
            advice = (
                "\nThe file is damaged, or its settings do not describe its tensors: correct them with `settings` or "
                "`ignore_settings`."
            )
        raise ValueError(f"{path} is data2vec ({source.kind}, {source.task}). {error}{advice}") from error


def _convert(source: Source, encoder_only: bool, weights: str) -> Converted:
    notes: list[str] = []
    config = config_from_fairseq(
        source.settings,
        source.kind,
        task_config=source.data,
        vocab_size=_vocab_size(source),
        notes=notes,
        state=source.state,
        encoder_only=encoder_only or source.task != PRETRAINING,
    )
    settle_fixed_scales(config, source.state, notes)
    if source.task == PRETRAINING:
        _set_cls_loss_rows(config, source.device_batch, notes)
        return _pretrained(source, config, encoder_only, weights, notes)
    if encoder_only:
        raise ValueError(
            f"It is fine-tuned for {source.task} and has no decoder to leave out; its encoder is loaded from the "
            "converted model with `AutoModel`."
        )
    config = head_config(source, config)
    conversion = convert_finetuned(source, config)
    converted = Converted(source, HEADS[source.task], config, conversion.tensors, conversion.unused, notes)
    _fill_with_zeros(converted)
    return converted


def _set_cls_loss_rows(config: Data2VecConfig, device_batch: Any, notes: list[str]) -> None:
    """Set `cls_loss_rows` to the rows of a device, over which the reference sums this loss."""
    for modality in config.modalities:
        settings = config.modality_config(modality)
        if not settings.cls_loss_weight:
            continue
        if isinstance(device_batch, int):
            settings.cls_loss_rows = device_batch * settings.num_masks
        else:
            notes.append(
                "cls_loss_rows is None, as the checkpoint does not store the samples per device (dataset.batch_size): "
                "before further pretraining, set it to that number times the masks."
            )


def _pretrained(
    source: Source, config: Data2VecConfig, encoder_only: bool, weights: str, notes: list[str]
) -> Converted:
    tensors, unused = convert_state_dict(
        source.state,
        source.kind,
        config,
        step=source.step,
        optional=(TEACHER, "decoders."),
        encoder_only=encoder_only,
    )
    needs_decoder = any(name.startswith("decoders.") for name in expected_shapes(Data2VecForPreTraining, config))
    if needs_decoder and not encoder_only and not _any(tensors, "decoders."):
        raise ValueError(
            "The checkpoint holds an encoder without the decoder that pretraining needs: convert the encoder alone "
            "(`encoder_only`)."
        )
    has_teacher = _any(tensors, TEACHER)
    if encoder_only:
        if weights == "teacher" and not has_teacher:
            raise ValueError("The checkpoint has no teacher (`_ema` or `model_ema`): take the student's weights.")
        chosen = Assembly()
        taken = set()
        for name in expected_shapes(Data2VecModel, config):
            lent = weights == "student" or TEACHER + name not in tensors
            taken.add((STUDENT if lent else TEACHER) + name)
            chosen.take(name, tensors, (STUDENT if lent else TEACHER) + name)
        reason = f"only the encoder was requested, with the {weights}'s weights"
        unused = unused + [Unused(name, reason) for name in tensors if name not in taken and name != "ema_step"]
        return Converted(source, Data2VecModel, config, chosen, unused, notes)
    if not has_teacher:
        notes.append("The checkpoint has no teacher: it starts as a copy of the student.")
        for name in expected_shapes(Data2VecForPreTraining, config):
            if name.startswith(TEACHER):
                tensors.copy(name, STUDENT + name.removeprefix(TEACHER))
        tensors.add("ema_step", torch.clone, torch.tensor(0))
    return Converted(source, Data2VecForPreTraining, config, tensors, unused, notes)


def _any(tensors: Assembly, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _vocab_size(source: Source) -> int | None:
    tables = [value for name, value in source.state.items() if name.endswith("embed_tokens.weight")]
    return tables[0].shape[0] if tables else None


def _fill_with_zeros(converted: Converted) -> None:
    """Add zeros for mask tokens that fine-tuning left out: our models have one, which is not read without masks."""
    for name, shape in expected_shapes(converted.model_class, converted.config).items():
        if name not in converted.tensors:
            converted.tensors.add(name, torch.clone, torch.zeros(shape))
            converted.notes.append(f"{name} is zero: the checkpoint has none.")


def _write(path: Path, tensors: Assembly, types: dict[str, torch.dtype]) -> list[str]:
    """Write tensors as safetensors, in pieces, and return the names of those that are not finite.

    The library's own writer wants all tensors in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, kind in types.items():
        shape = list(tensors.meta(name).shape)
        start, end = end, end + math.prod(shape) * kind.itemsize
        header[name] = {"dtype": _SAFETENSORS_TYPES[kind], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    wrong = []
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, kind in types.items():
            for part in tensors.peek(name).reshape(-1).split(_CHUNK):
                part = part.to(kind)
                if kind.is_floating_point and not part.isfinite().all():
                    wrong.append(name)
                file.write(part.view(torch.uint8).numpy().data)
    return list(dict.fromkeys(wrong))
