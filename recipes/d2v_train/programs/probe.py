"""Probe a pretrained encoder without training it: kNN, linear and few-label accuracy of its features.

    d2v probe runs/demo/final --modality vision --data builtin
    d2v probe runs/fsdd/final --modality audio --data data/fsdd --test_groups george
    d2v probe runs/images/final --modality vision --data path/to/labelled/images
    d2v probe runs/text/final --modality text --data data/glue/sst2 --layer 6 --batch_size 64
    d2v probe FacebookAI/roberta-base --modality text --data data/glue/sst2
    d2v probe runs/roberta/final_backbone --modality text --data data/glue/sst2

The last two are an encoder of transformers before and after its pretraining was continued.

The result is one line of JSON on standard output, with accuracies in percent of the encoder, of the same encoder with
random weights, and of simple features (pixels, MFCC or TF-IDF): an encoder that does not beat both has learned nothing
useful for this task. Hyperparameters are chosen on the training part; the test part is used once. Without a test
split, such as in a folder with one folder per class, a fifth of every class is held out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys

from d2v_train.data.tables import SourceSettings
from d2v_train.options.arguments import add_arguments, given
from d2v_train.probing.settings import ProbeSettings


OF_THE_SOURCE = (
    "column",
    "label_column",
    "group_column",
    "value_range",
    "max_pixels",
    "sampling_rate",
    "channels_first",
)
"""Fields of `SourceSettings` that are options of the command."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command, with the fields of `ProbeSettings` and some keys of its mappings."""
    parser = argparse.ArgumentParser(
        prog="d2v probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, ProbeSettings)
    add_arguments(parser, SourceSettings, only=OF_THE_SOURCE)
    parser.add_argument("--max_seconds", type=float, help="Seconds of each recording to use, from its beginning.")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the probe from the command line."""
    args = build_parser().parse_args(argv)
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.probing.run import run_probe

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        if args.max_seconds is not None and not args.max_seconds > 0:
            raise ValueError(f"Option max_seconds is {args.max_seconds}; it must be above 0.")
        fields = given(args, [field.name for field in dataclasses.fields(ProbeSettings)])
        source, transform = given(args, OF_THE_SOURCE), given(args, ["max_seconds"])
        result = run_probe(ProbeSettings(**fields, dataset=source, transform=transform))
    except (ValueError, OSError) as error:
        # A mistake of the user, for which the message is clearer than a traceback.
        sys.exit(f"d2v probe: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
