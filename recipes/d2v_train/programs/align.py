"""Ask what the latents of several modalities share: concepts seen, heard and read, by one model or by several.

    d2v align concepts --models "joint 0=runs/joint_0/final" "joint 1=runs/joint_1/final" --question dog
    d2v align concepts --models "separate 0=vision:runs/vision/final,audio:runs/audio/final,text:runs/text/final"
    d2v align concepts --models "trained=vision:google/vit-base-patch16-224,text:FacebookAI/roberta-base" --templates
    d2v align concepts --models ... --preregistration my_study.yaml --output results --corpus books/

A folder of concepts holds `pictures/dog/*.jpg`, `recordings/dog/*.wav`, `sentences/dog.txt` (a sentence per line) and,
if wanted, `concepts.json` with words and groups; two of the three are enough. Beside each model stand the same
networks without training, hand-made features and shuffled names. Measures, layers, nulls and the rule of the verdict
are read from a preregistration; the results, `align.json`, hold it with its hash. `align.html` shows them to a reader
who was not there, and with `--inside` also what happens inside joint models. The verdict is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="d2v align", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("concepts", type=Path, help="folder of concepts")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=PLACE",
                        help="models; a number at the end of a name is a seed")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/align"), help="folder of the results (runs/align)")
    parser.add_argument("--preregistration", default="align_concepts",
                        help="YAML file, or the name of one in configs (align_concepts)")  # fmt: skip
    parser.add_argument("--question", metavar="CONCEPT", help="concept that is looked at alone")
    parser.add_argument("--exemplars", type=int, default=20, help="most examples of a concept and modality (20)")
    parser.add_argument(
        "--corpus", help="text in which sentences are found for words without any: a source of `d2v data`"
    )
    parser.add_argument("--templates", action="store_true", help="put words without sentences in templates")
    parser.add_argument("--positive_control", action="store_true",
                        help="add networks whose agreement is known (ten minutes, three packages)")  # fmt: skip
    parser.add_argument("--inside", action="store_true",
                        help="look inside joint models (minutes; needs the extra `analysis`)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=32, help="examples of a forward pass (32)")
    parser.add_argument("--device", help="device, for example cpu or cuda:1; without one a GPU if there is one")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run a study from the command line."""
    args = build_parser().parse_args(argv)
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.alignment.concepts import TEMPLATES
    from d2v_train.alignment.encoders import parse_models
    from d2v_train.alignment.report.page import PAGE, write_report
    from d2v_train.alignment.study import RESULT, StudySettings, run_study
    from d2v_train.options.errors import at_least
    from d2v_train.probing.run import find_device

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        at_least("exemplars", args.exemplars, 2)
        at_least("batch_size", args.batch_size, 1)
        settings = StudySettings(
            concepts=args.concepts,
            models=parse_models(args.models),
            output=args.output,
            preregistration=args.preregistration,
            question=args.question,
            exemplars=args.exemplars,
            corpus=None if args.corpus is None else corpus_texts(args.corpus),
            templates=TEMPLATES if args.templates else (),
            batch_size=args.batch_size,
            device=find_device(args.device),
            positive_control=args.positive_control,
            inside=args.inside,
            command=shlex.join(["d2v", "align", *(sys.argv[1:] if argv is None else argv)]),
        )
        study = run_study(settings)
        page = write_report(study, args.output / PAGE, RESULT)
    except (ValueError, OSError, ImportError) as error:
        # A mistake of the user, for which the message is clearer than a traceback.
        sys.exit(f"d2v align: {error}")
    answers = {f"{pair.kind}: {pair.first} and {pair.second}": pair.answer for pair in study.verdict.pairs}
    print(json.dumps({"answer": study.verdict.answer, "sentence": study.verdict.sentence, "pairs": answers,
                      "result": str(args.output / RESULT), "page": str(page)}))  # fmt: skip


def corpus_texts(source: str) -> Iterator[tuple[str, str]]:
    """Yield (document, source) of the training split of a source of text."""
    from d2v_train.data.records import open_dataset

    dataset = open_dataset("text", source, "train")
    for index in range(len(dataset)):
        yield dataset[index]["text"], source


if __name__ == "__main__":
    sys.exit(main())
