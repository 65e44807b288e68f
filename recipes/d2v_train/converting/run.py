"""What `d2v convert` does with a checkpoint file, a model of transformers and a model of this package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from d2v_train.converting.dictionaries import read_dictionary
from d2v_train.converting.summary import (
    Summary,
    card_of,
    converted_license,
    input_parts,
    nearest_size,
    summarise,
    verify,
    write_converted,
)
from modeling_d2v import Data2VecConfig, Data2VecModel, Data2VecProcessor
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.conversion.hf.export_folder import export_to_transformers
from modeling_d2v.conversion.hf.load import KINDS, from_transformers
from modeling_d2v.model_card import read_license
from modeling_d2v.sharing.publishing import find_checkpoint


WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "source": None}
"""Data types of the converted weights by their names on the command line; None keeps those of the source."""


def convert_file(args: argparse.Namespace) -> Summary:
    """Convert a checkpoint file of fairseq or of BEiT's program."""
    settings = read_settings(args.settings) if args.settings else None
    converted = convert_checkpoint(
        args.source,
        encoder_only=args.encoder_only,
        weights=args.weights,
        settings=settings,
        ignore_settings=args.ignore_settings,
        kind=args.kind,
    )
    symbols = read_dictionary(args.dict) if args.dict else None
    parts, notes = input_parts(converted, symbols, args.bpe)
    dtype = WEIGHT_DTYPES[args.dtype]
    summary = summarise(converted, args.license, notes)

    def check(folder: Path) -> None:
        compared = verify(folder, converted, dtype)
        summary.notes.append(f"verified: {compared} tensors equal those of the source")

    write_converted(
        args.out,
        lambda folder: converted.save(folder, dtype, allow_nonfinite=args.allow_nonfinite),
        parts,
        card_of(summary, converted.config, args.source, args.out.name, args.dtype),
        check if args.verify else None,
    )
    return summary


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a checkpoint from a JSON file."""
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); --settings takes a dictionary such as `cfg`.") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} contains a {type(settings).__name__}; --settings takes a dictionary such as `cfg`.")
    return settings


def convert_transformers(args: argparse.Namespace) -> Summary:
    """Convert a model of transformers with its tokenizer, feature extractor or image processor."""
    architecture = args.architecture
    model, unused = from_transformers(args.source, architecture=architecture)
    if args.encoder_only and not isinstance(model, Data2VecModel):
        model, unused = from_transformers(args.source, architecture=_encoder_of(model))
    if WEIGHT_DTYPES[args.dtype] is not None:
        model = model.to(WEIGHT_DTYPES[args.dtype])
    identifier, reason = converted_license(model.config, args.license, args.source)
    parts, notes = _parts_of(args.source)
    kind = f"transformers data2vec-{model.config.modalities[0]}"
    size, parameters = nearest_size(model.config), model.num_parameters()
    summary = Summary(kind, "as published", type(model).__name__, size, parameters, identifier, reason, unused, notes)
    wrong = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if wrong and not args.allow_nonfinite:
        raise ValueError(
            f"{args.source} contains infinite or NaN values in {', '.join(wrong[:5])}. --allow_nonfinite converts it."
        )

    def check(folder: Path) -> None:
        again = type(model).from_pretrained(folder).state_dict()
        differing = [name for name, tensor in model.state_dict().items() if not torch.equal(again[name], tensor)]
        if differing:
            raise ValueError(f"The written model differs from the source in {', '.join(differing[:10])}.")
        summary.notes.append(f"verified: {len(again)} tensors equal those of the source")

    card = card_of(summary, model.config, args.source, args.out.name, args.dtype)
    write_converted(args.out, model.save_pretrained, parts, card, check if args.verify else None)
    return summary


def convert_back(args: argparse.Namespace) -> Summary:
    """Export a model of this package to the classes of transformers."""
    config = Data2VecConfig.from_pretrained(find_checkpoint(args.source))
    exported = export_to_transformers(
        args.source,
        args.out,
        overwrite=args.overwrite,
        dtype=WEIGHT_DTYPES[args.dtype],
        license=args.license,
        verify=args.verify,
        weights=args.weights,
        modality=args.modality,
    )
    model, license = exported.model, read_license(args.out)
    return Summary(
        "this package",
        (config.architectures or ["Data2VecModel"])[0],
        type(model).__name__,
        nearest_size(config),
        model.num_parameters(),
        license or "not known",
        "from --license" if args.license else "from the card of the source" if license else "its card names none",
        exported.unused,
        exported.notes,
    )


def _encoder_of(model: Any) -> str:
    classes = KINDS[f"data2vec-{model.config.modalities[0]}"].classes
    return next(name for name, ours in classes.items() if ours is Data2VecModel)


def _parts_of(source: str) -> tuple[dict[str, Any], list[str]]:
    try:
        processor = Data2VecProcessor.from_pretrained(source)
    except OSError:
        return {}, ["no tokenizer, feature extractor or image processor: the source has none"]
    return {name: getattr(processor, name) for name in processor.get_attributes()}, []
