"""Convert a data2vec checkpoint of another program into a folder that `AutoModel.from_pretrained` loads.

    d2v convert base_libri.pt models/data2vec2-audio-base --verify
    d2v convert audio_base_ls_960h.pt models/audio-960h --dict dict.ltr.txt
    d2v convert nlp_base.pt models/text-base --dict dict.txt --bpe encoder.json vocab.bpe
    d2v convert facebook/data2vec-vision-base-ft1k models/vision-ft1k
    d2v convert runs/ctc for_transformers --to transformers --verify

Sources: checkpoints of fairseq (2.0 and 1.0; pretrained, or fine-tuned for speech recognition, images or texts), of
BEiT's program (images, 1.0), and models of type data2vec-audio, -text and -vision of transformers. A pretrained model
keeps its teacher and decoders, so that `d2v pretrain ... init_from=OUT` continues from it. No code in a source is
executed, and OUT is either written completely or not at all. With `--to transformers` the source is a model of this
package and OUT a model of transformers, for code without this package.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

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
from modeling_d2v.conversion.fairseq.layouts import FAIRSEQ_KINDS
from modeling_d2v.conversion.hf.export_folder import export_to_transformers
from modeling_d2v.conversion.hf.load import KINDS, from_transformers
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.model_card import read_license
from modeling_d2v.sharing.drafts import check_place
from modeling_d2v.sharing.publishing import find_checkpoint


FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "source": None}


# Options that do not apply to a source, with their defaults.
_OF_FILES = {"dict": None, "bpe": None, "settings": None, "ignore_settings": [], "kind": None}
_OF_THE_WAY_BACK = {"modality": None}
_WITHOUT_USE: dict[str, dict[str, Any]] = {
    "a checkpoint file": {"architecture": None, **_OF_THE_WAY_BACK},
    "a model of transformers": {"weights": "student", **_OF_FILES, **_OF_THE_WAY_BACK},
    "--to transformers": {"encoder_only": False, "architecture": None, "allow_nonfinite": False, **_OF_FILES},
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="d2v convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "source",
        help="checkpoint file, folder or Hub name of a transformers model, or with --to a model of this package",
    )
    add("out", type=Path, help="folder to write")
    add("--dict", help="dictionary of fairseq: dict.ltr.txt for speech recognition, dict.txt for a text model")
    add("--bpe", nargs=2, metavar=("ENCODER", "MERGES"), help="encoder.json and vocab.bpe of GPT-2, for a text model")
    add("--verify", action="store_true", help="read the result back and compare every tensor with the source")
    add("--dtype", choices=DTYPES, default="float32", help="data type of the weights (default: %(default)s)")
    add("--encoder_only", action="store_true", help="leave out teacher and decoders, or the head")
    add("--weights", choices=("student", "teacher"), default="student", help="encoder that --encoder_only keeps")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    add("--allow_nonfinite", action="store_true", help="convert weights with infinite or NaN values")
    add("--license", help="licence identifier of the Hub for the card (default: that of the published models)")
    add(
        "--kind", choices=FAIRSEQ_KINDS, help="kind of a state dict whose names do not tell it, or that lacks settings"
    )
    add("--settings", help="JSON file with the settings (`cfg`) of a checkpoint without settings")
    add("--ignore_settings", nargs="+", default=[], metavar="NAME", help="settings of the encoder to ignore")
    add("--to", choices=("data2vec", "transformers"), default="data2vec", help="kind of OUT (default: %(default)s)")
    add("--modality", choices=tuple(MODALITIES), help="modality of a joint encoder for --to transformers")
    add("--architecture", help="class of the transformers model, if its configuration does not name it")
    return parser


def run_program(argv: list[str]) -> Summary:
    """Convert the source named on the command line.

    Args:
        argv: Arguments.

    Returns:
        Summary of the conversion.

    Raises:
        ValueError, OSError: If the source, an option or the output folder is wrong.
    """
    args = build_parser().parse_args(argv)
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists. Choose another folder, or replace it with --overwrite.")
    if args.out.exists() and not (args.out / "config.json").is_file():
        raise ValueError(f"{args.out} exists and is not a model folder, so it is not replaced. Choose another folder.")
    check_place(args.out, args.source, args.dict, args.settings, *(args.bpe or ()))
    what, convert = "a checkpoint file", convert_file
    if args.to == "transformers":
        what, convert = "--to transformers", convert_back
    elif is_transformers(args.source):
        what, convert = "a model of transformers", convert_transformers
    useless = [f"--{name}" for name, value in _WITHOUT_USE[what].items() if getattr(args, name) != value]
    if useless:
        raise ValueError(f"{', '.join(useless)} would change nothing for {what}: remove it.")
    summary = convert(args)
    print(summary)
    print(f"written     {args.out}")
    return summary


def is_transformers(source: str) -> bool:
    """Return whether a source is a folder or a name on the Hub, not a checkpoint file."""
    path = Path(source)
    if path.is_dir():
        return True
    is_name = source.count("/") <= 1 and not source.startswith((".", "/"))
    return is_name and not path.is_file() and path.suffix.lower() not in FILE_SUFFIXES


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
    dtype = DTYPES[args.dtype]
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
    if DTYPES[args.dtype] is not None:
        model = model.to(DTYPES[args.dtype])
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
        dtype=DTYPES[args.dtype],
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


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process.

    Args:
        argv: Arguments; None for the command line.

    Returns:
        Exit status: 0, or an error message.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    # SIGTERM is an interruption too: a folder that is not complete is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_program(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return "d2v convert: interrupted. Nothing was written."
    except (ValueError, OSError, SafetensorError) as error:
        # For mistakes of the user and full disks, a traceback would only hide the message.
        return f"d2v convert: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
