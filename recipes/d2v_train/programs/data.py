"""Say what a source of data is read as, before anything is trained on it.

    d2v data path/to/folder
    d2v data path/to/folder --modality vision
    d2v data s3://bucket/recordings --modality audio --json

The first line names the layout, the number of samples of each split, and how many of the files are used; every other
file is counted below it with the reason. The other programs log the same account when they open their data. Without
--modality, the source is read as each modality of which it holds samples.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from d2v_train.data.inventory import Inventory, first_names
from d2v_train.data.tables import NoSamplesError, SourceSettings, UnclearColumnError
from d2v_train.options.arguments import add_arguments, given
from d2v_train.options.source import constant
from d2v_train.support.extras import MissingDependencyError


logger = logging.getLogger(__name__)

OF_THE_SOURCE = ("column", "encoding", "documents")
"""Fields of `SourceSettings` that are options of the command."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="d2v data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="Folder, file, URL or name on the Hub.")
    modalities = sorted(constant("d2v_train.data.kinds", "RECORD_KINDS"))
    parser.add_argument("--modality", choices=modalities, help="What to read; default: whatever is there.")
    parser.add_argument("--json", action="store_true", help="Print every file, as one object of JSON by modality.")
    add_arguments(parser, SourceSettings, only=OF_THE_SOURCE)
    return parser


def read_source(source: str, modality: str | None, settings: SourceSettings) -> dict[str, Inventory]:
    """Return the accounts of a source by modality.

    A modality of which it seems to hold samples that cannot be read is logged.

    Args:
        source: The source.
        modality: What to read; None for every modality of which there are samples.
        settings: How it is read.

    Raises:
        ValueError: If there are no samples, or they cannot be read.
    """
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.data.kinds import RECORD_KINDS
    from d2v_train.data.sources import take_inventory

    if modality is not None:
        return {modality: take_inventory(modality, source, settings)}
    found, problems = {}, {}
    for name in RECORD_KINDS:
        try:
            found[name] = take_inventory(name, source, settings)
        except (ValueError, MissingDependencyError) as error:
            problems[name] = error
    if not found:
        raise ValueError("\n".join(f"As {name}: {error}" for name, error in problems.items()))
    for name, error in problems.items():
        if not isinstance(error, NoSamplesError | UnclearColumnError):
            logger.warning("It cannot be read as %s: %s", name, error)
    return found


def unused(inventories: dict[str, Inventory]) -> list[str]:
    """Return the names of the files that no modality uses."""
    used = {name for inventory in inventories.values() for name in inventory.used}
    everything = (name for one in inventories.values() for names in one.left_out.values() for name in names)
    return [name for name in dict.fromkeys(everything) if name not in used]


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        settings = SourceSettings(**given(args, OF_THE_SOURCE), read_labels=False)
        found = read_source(args.source, args.modality, settings)
    except (ValueError, OSError, MissingDependencyError) as error:
        # A mistake of the user, for which the message is clearer than a traceback.
        sys.exit(f"d2v data: {error}")
    try:
        show(found, args.json)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader may close the pipe early, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(found: dict[str, Inventory], as_json: bool) -> None:
    """Print the account of a source in each modality."""
    if as_json:
        print(json.dumps({name: inventory.to_dict() for name, inventory in found.items()}))
        return
    for name, inventory in found.items():
        print("\n".join([f"{name}: {inventory.lines()[0]}", *inventory.lines()[1:]]))
    if len(found) > 1:
        rest = unused(found)
        print(f"used for none of them: {len(rest)} files" + (f" ({first_names(rest)})" if rest else ""))


if __name__ == "__main__":
    sys.exit(main())
