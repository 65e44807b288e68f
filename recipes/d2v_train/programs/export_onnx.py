"""Export a model as an ONNX program, checked against the model.

    d2v export-onnx --model runs/ctc --output runs/ctc/model.onnx
    d2v export-onnx --model runs/joint/final --modality audio --output encoder.onnx
    d2v export-onnx --model runs/images --any_image_size --output model.onnx

The program takes batches of any size and texts and waveforms of any length, padded by `attention_mask`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from d2v_train.options.source import constant
from d2v_train.support.extras import MissingDependencyError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="d2v export-onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or name on the Hub")
    parser.add_argument("--output", default="model.onnx", help="file to write (default: %(default)s)")
    parser.add_argument(
        "--auto", help="Auto class, such as AutoModelForCTC (default: the saved class, or the encoder of a "
        "pretraining model)"
    )  # fmt: skip
    parser.add_argument(
        "--modality", choices=constant("modeling_d2v.modalities", "MODALITIES"), help="front end of a joint encoder"
    )
    parser.add_argument("--any_image_size", action="store_true", help="allow image sizes of any multiple of a patch")
    opset = constant("d2v_train.publishing.onnx", "OPSET")
    parser.add_argument("--opset", type=int, default=opset, help="version of the operator set (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="maximum relative difference (default: 1e-4)")
    return parser


def load(name: str, auto: str | None) -> PreTrainedModel:
    """Load the model of a checkpoint.

    Raises:
        FileNotFoundError: If there is no model in the folder.
        ValueError: If the Auto class does not exist.
    """
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    import transformers

    import modeling_d2v
    from modeling_d2v.sharing.places import model_place

    if auto is not None:
        if not auto.startswith("AutoModel") or not hasattr(transformers, auto):
            raise ValueError(f"--auto {auto} is not an Auto class of transformers; use one such as AutoModelForCTC.")
        return getattr(transformers, auto).from_pretrained(model_place(name))
    name = model_place(name)
    (saved,) = transformers.AutoConfig.from_pretrained(name).architectures or ["Data2VecModel"]
    if saved == "Data2VecForPreTraining":
        saved = "Data2VecModel"
    return getattr(modeling_d2v, saved).from_pretrained(name)


def main(argv: list[str] | None = None) -> None:
    """Run the program as a process."""
    args = build_parser().parse_args(argv)
    from d2v_train.publishing.onnx import export_onnx

    try:
        model = load(args.model, args.auto)
        difference = export_onnx(
            model,
            args.output,
            args.modality,
            any_image_size=args.any_image_size,
            opset=args.opset,
            tolerance=args.tolerance,
        )
    except (MissingDependencyError, OSError, ValueError) as error:
        sys.exit(f"d2v export-onnx: {error}")
    print(f"{type(model).__name__} written to {args.output}; largest relative difference: {difference:.1e}")


if __name__ == "__main__":
    sys.exit(main())
