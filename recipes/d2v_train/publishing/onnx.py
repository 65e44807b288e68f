"""A model as an ONNX program for batches of any size and length, compared with the model itself.

Shapes: B samples, C choices of a multiple-choice head, or channels of arrays, T text tokens, S waveform samples, N
places of a series.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from d2v_train.support.extras import need
from modeling_d2v import Data2VecForMultipleChoice, Data2VecForPreTraining, Data2VecForSemanticSegmentation


Batch = dict[str, Tensor]
OPSET = 20
HUGE = 1e30  # question answering gives padding the lowest finite number, relative to which any difference is small


def example_inputs(model: Any, modality: str, lengths: list[int], seed: int = 0) -> Batch:
    """Return random input of a model.

    Args:
        model: Any model of the package except those for pretraining.
        modality: "text", "vision", "audio" or "arrays".
        lengths: T or S of each sample, or the length of each series, padded to the longest; for images the height and
            width of each of two, for arrays of several sides those of each of two.
        seed: Seed of the random values.

    Returns:
        `input_ids`, `input_values` or series with `attention_mask`; `pixel_values` or other `array_values` without.
    """
    generator = torch.Generator().manual_seed(seed)
    part = model.config.modality_config(modality)
    if modality == "vision":
        return {"pixel_values": torch.randn(2, part.num_channels, *lengths, generator=generator)}
    if modality == "arrays" and part.num_dims > 1:
        return {"array_values": torch.randn(2, *lengths, part.num_channels, generator=generator)}
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    if modality == "audio":
        return {"input_values": torch.randn(mask.shape, generator=generator) * mask, "attention_mask": mask}
    if modality == "arrays":
        values = torch.randn(*mask.shape, part.num_channels, generator=generator)
        return {"array_values": values * mask[..., None], "attention_mask": mask}
    ids = torch.randint(part.vocab_size, mask.shape, generator=generator)
    # The pad token would be treated as padding.
    ids = torch.where(ids == part.pad_token_id, (part.pad_token_id + 1) % part.vocab_size, ids)
    batch = {"input_ids": ids.masked_fill(mask == 0, part.pad_token_id), "attention_mask": mask}
    if isinstance(model, Data2VecForMultipleChoice):
        return {name: torch.stack([x, x.flip(0)], dim=1) for name, x in batch.items()}
    return batch


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the tensors of a model's output by name.

    `feature_maps` become `feature_maps.0`, ...; masks of tokens become `token_mask`, to differ from the input
    `attention_mask`.
    """
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        name = "token_mask" if name == "attention_mask" else name
        entries = {name: value} if isinstance(value, Tensor) else {f"{name}.{i}": x for i, x in enumerate(value)}
        found |= entries
    return found


def dynamic_shapes(model: Any, modality: str, inputs: Batch, any_image_size: bool = False) -> dict[str, Any]:
    """Return the dynamic dimensions, as `torch.export.export` and `torch.onnx.export` take them.

    Args:
        model, modality, inputs: As in and from `example_inputs`.
        any_image_size: Height and width too.
    """
    part, batch = model.config.modality_config(modality), Dim("batch", min=1)
    if modality == "vision":
        sides = {2: part.patch_size * Dim("rows", min=1), 3: part.patch_size * Dim("columns", min=1)}
        return {"pixel_values": {0: batch, **(sides if any_image_size else {})}}
    if modality == "arrays" and part.num_dims > 1:
        return {"array_values": {0: batch}}
    if modality in ("audio", "arrays"):
        # Not a named dimension: the exporter cannot prove that the mask and the convolutions have the same number of
        # frames at every length. The program checks it when it runs.
        return dict.fromkeys(inputs, {0: batch, 1: Dim.DYNAMIC})
    # As for speech: the exporter has no name for the padding of the last group of bytes.
    tokens = Dim.DYNAMIC if part.is_perceiver else Dim("tokens", min=1, max=part.max_position_embeddings)
    if inputs["input_ids"].dim() == 3:
        return dict.fromkeys(inputs, {0: batch, 1: Dim("choices", min=1), 2: tokens})
    return dict.fromkeys(inputs, {0: batch, 1: tokens})


def check_inputs(model: Any, modality: str, any_image_size: bool = False) -> list[Batch]:
    """Return inputs of several shapes, padded ones among them; the first one is for tracing the model."""
    part = model.config.modality_config(modality)
    if modality == "vision":
        side, patch = part.image_size, part.patch_size
        # Traced with another size than the configured one, so that it is not fixed.
        sizes = [[side + patch, side + 2 * patch], [side, side], [2 * patch, side]] if any_image_size else [[side] * 2]
        cases = [example_inputs(model, modality, size, seed) for seed, size in enumerate(sizes)]
        return [*cases, {"pixel_values": cases[0]["pixel_values"][:1]}]
    if modality == "arrays" and part.num_dims > 1:
        # Sides are fixed: the order of the curve depends on them.
        side = 2 * round(part.group_size ** (1 / part.num_dims)) + 1
        cases = [example_inputs(model, modality, [side] * part.num_dims)]
        return [*cases, {"array_values": cases[0]["array_values"][:1]}]
    frames, width = (part.frame_stride, part.frame_width) if modality == "audio" else (1, 0)
    top = part.max_position_embeddings if modality == "text" else 100
    units = [[min(length, top) for length in lengths] for lengths in ([37, 24, 9], [50, 50], [12], [99, 30])]
    return [example_inputs(model, modality, [n * frames + width for n in row], i) for i, row in enumerate(units)]


def largest_difference(model: Any, path: str | Path, cases: list[Batch]) -> float:
    """Return the largest difference of the ONNX program from the model, relative to the largest value of each output.

    Args:
        model: The model in evaluation mode.
        path: ONNX file.
        cases: Inputs to compare.
    """
    session = need("onnxruntime", "onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for inputs in cases:
        with torch.no_grad():
            expected = named_outputs(model(**inputs))
        found = session.run(list(expected), {name: x.numpy() for name, x in inputs.items()})
        for name, array in zip(expected, found, strict=True):
            right, given = expected[name].double(), torch.from_numpy(array).double()
            if right.shape != given.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)} in ONNX, {tuple(right.shape)} in the model.")
            huge = right.abs() > HUGE
            if not torch.equal(right[huge], given[huge]):
                return float("inf")
            scale = right[~huge].abs().max().clamp(min=1e-12)
            largest = max(largest, ((right - given)[~huge].abs().max() / scale).item())
    return largest


def export_onnx(
    model: Any,
    path: str | Path,
    modality: str | None = None,
    *,
    any_image_size: bool = False,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> float:
    """Write a model as an ONNX program and compare the two on inputs of several shapes, padded ones included.

    The program takes batches of any size, texts, waveforms and series of any length (`attention_mask` is always an
    input), images of the configured size, or any multiple of the patch size, and other arrays of one size. Its outputs
    have the names of `named_outputs`.

    Args:
        model: Any model of the package except those for pretraining.
        path: ONNX file; weights of more than 2 GB lie beside it.
        modality: Front end to export, of an encoder with several.
        any_image_size: Let height and width vary, not for segmentation.
        opset: Version of the ONNX operators.
        tolerance: Largest accepted relative difference.

    Returns:
        The largest relative difference.

    Raises:
        MissingDependencyError: Onnx, onnxscript or onnxruntime is not installed.
        ValueError: The model or the options cannot be exported, or the outputs differ; then no file is written.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        need(library, "onnx")
    modality = _modality(model, modality)
    if any_image_size and (modality != "vision" or isinstance(model, Data2VecForSemanticSegmentation)):
        raise ValueError(
            f"{type(model).__name__} cannot be exported for images of any size: "
            + ("its pooling has a fixed size." if modality == "vision" else "it has no images as input.")
        )
    if modality == "arrays" and model.config.arrays_config.num_dims > 1:
        dims = model.config.arrays_config.num_dims
        raise ValueError(
            f"{type(model).__name__} cannot be exported: its arrays have {dims} dimensions, and only series, of one "
            "dimension, can have any length."
        )
    model = model.eval()
    cases = check_inputs(model, modality, any_image_size)
    with torch.no_grad():
        names = list(named_outputs(model(**cases[0])))
        program = _traced(model, cases[0], dynamic_shapes(model, modality, cases[0], any_image_size), names, opset)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as draft:
        program.save(str(Path(draft) / path.name))
        difference = largest_difference(model, Path(draft) / path.name, cases)
        if not difference <= tolerance:
            raise ValueError(
                f"The ONNX program differs from the model by {difference:.1e} of the largest value, more than the "
                f"tolerance {tolerance:.1e}; nothing was written. Weights in half precision need a higher tolerance."
            )
        for file in Path(draft).iterdir():
            shutil.move(file, path.parent / file.name)
    return difference


def _modality(model: Any, modality: str | None) -> str:
    if isinstance(model, Data2VecForPreTraining):
        raise ValueError("A pretraining model draws masks; export its encoder, `AutoModel.from_pretrained(...)`.")
    has = model.config.modalities
    if modality is None and len(has) > 1:
        raise ValueError(f"This encoder has {' and '.join(has)}; choose one with `modality`.")
    model.config.modality_config(modality or has[0])
    return modality or has[0]


def _traced(model: Any, inputs: Batch, shapes: dict[str, Any], names: list[str], opset: int) -> Any:
    exporter, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    exporter.setLevel(logging.ERROR)  # it logs every operator of torchvision if that is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                model,
                kwargs=inputs,
                dynamic_shapes=shapes,
                output_names=names,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
