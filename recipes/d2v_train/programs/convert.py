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
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from d2v_train.options.source import constant


if TYPE_CHECKING:
    from d2v_train.converting.summary import Summary


FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")


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
    kinds = constant("modeling_d2v.conversion.fairseq.layouts", "LAYOUTS")
    modalities = constant("modeling_d2v.modalities", "MODALITIES")
    dtypes = constant("d2v_train.converting.run", "WEIGHT_DTYPES")
    add(
        "source",
        help="checkpoint file, folder or Hub name of a transformers model, or with --to a model of this package",
    )
    add("out", type=Path, help="folder to write")
    add("--dict", help="dictionary of fairseq: dict.ltr.txt for speech recognition, dict.txt for a text model")
    add("--bpe", nargs=2, metavar=("ENCODER", "MERGES"), help="encoder.json and vocab.bpe of GPT-2, for a text model")
    add("--verify", action="store_true", help="read the result back and compare every tensor with the source")
    add("--dtype", choices=dtypes, default="float32", help="data type of the weights (default: %(default)s)")
    add("--encoder_only", action="store_true", help="leave out teacher and decoders, or the head")
    add("--weights", choices=("student", "teacher"), default="student", help="encoder that --encoder_only keeps")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    add("--allow_nonfinite", action="store_true", help="convert weights with infinite or NaN values")
    add("--license", help="licence identifier of the Hub for the card (default: that of the published models)")
    add("--kind", choices=kinds, help="kind of a state dict whose names do not tell it, or that lacks settings")
    add("--settings", help="JSON file with the settings (`cfg`) of a checkpoint without settings")
    add("--ignore_settings", nargs="+", default=[], metavar="NAME", help="settings of the encoder to ignore")
    add("--to", choices=("data2vec", "transformers"), default="data2vec", help="kind of OUT (default: %(default)s)")
    add("--modality", choices=modalities, help="modality of a joint encoder for --to transformers")
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
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.converting.run import convert_back, convert_file, convert_transformers
    from modeling_d2v.sharing.drafts import check_place

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
