"""Publish a checkpoint on the Hugging Face Hub, so that two lines load it.

    hf auth login
    d2v publish runs/images me/my-images --dry_run
    d2v publish runs/images me/my-images
    d2v publish runs/images me/my-images --weights teacher --revision teacher
    d2v publish converted/vision me/vision --private

CHECKPOINT is the folder of a finished run, or any folder with a model. Of a pretraining run the encoder is uploaded
with the code that loads it (not needed for one of transformers), its processors, and a model card made from the record
of the run, including reports of `d2v probe` (`probe*.json`) and images (`*.png`, see `d2v plot`) in the folder of the
run. All files are uploaded in one commit. After an interruption, the same command uploads what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from d2v_train.options.source import constant


if TYPE_CHECKING:
    from modeling_d2v.sharing.publishing import Publication


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="d2v publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    weights = constant("modeling_d2v.sharing.publishing", "WEIGHTS")
    add("checkpoint", help="folder of a finished run or of a model")
    add("repo_id", help="user/name, or only a name for your own account")
    add("--weights", choices=weights, default="student", help="weights of a pretraining model (default: %(default)s)")
    add("--license", help="licence of the weights, such as apache-2.0; needed unless their source states one")
    add(
        "--card", type=Path, help="README.md to use (default: that of the checkpoint, or one made from the run record)"
    )
    add("--probe", type=Path, nargs="+", default=[], help="reports of `d2v probe` for the card")
    add("--private", action="store_true", default=None, help="create a private repository, if it does not exist")
    add("--revision", help="branch to upload to, created if it does not exist (default: main)")
    add("--create_pr", action="store_true", help="open a pull request instead of changing the branch")
    add("--commit_message", default="Upload model", help="(default: %(default)s)")
    add("--max_shard_size", default="50GB", help="maximum size of a file of weights (default: %(default)s)")
    add("--token", help="access token of the Hub (default: the stored one)")
    add("--dry_run", action="store_true", help="show files, sizes and card without using the network")
    return parser


def run_program(argv: list[str]) -> Publication:
    """Publish the checkpoint named on the command line, and print what was uploaded."""
    args = build_parser().parse_args(argv)
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.publishing.hub import publish_checkpoint

    made = publish_checkpoint(
        args.checkpoint,
        args.repo_id,
        weights=args.weights,
        license=args.license,
        card=args.card.read_text(encoding="utf-8") if args.card else None,
        probes=args.probe,
        max_shard_size=args.max_shard_size,
        dry_run=args.dry_run,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        commit_message=args.commit_message,
        token=args.token,
    )
    print(made.listing())
    if args.dry_run:
        print(f"\n{made.card}")
    print(f"{'Would be published' if args.dry_run else 'Published'}: {made.url or made.repo_id} ({made.license})")
    return made


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process.

    Args:
        argv: Arguments; None for the command line.

    Returns:
        Exit status: 0, or an error message.
    """
    argv = sys.argv[1:] if argv is None else argv
    build_parser().parse_args(argv)
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from safetensors import SafetensorError

    from d2v_train.options.errors import OptionError
    from modeling_d2v.sharing.publishing import PublishingError

    try:
        run_program(argv)
    except (OptionError, PublishingError, SafetensorError, ValueError, OSError) as error:
        return f"d2v publish: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
