"""Why a file of a source is not read, and the account of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from d2v_train.data.inventory import Inventory
from d2v_train.data.kinds import RECORD_KINDS, UNREADABLE_SUFFIXES
from d2v_train.data.listing import Listing
from d2v_train.data.tables import NoSamplesError
from d2v_train.data.text_source_file import text_suffix
from d2v_train.support.extras import MissingDependencyError


PLURALS = {"text": "texts", "vision": "pictures", "audio": "recordings", "arrays": "arrays"}
"""What the samples of a modality are called."""
_TABLES = frozenset(
    ".parquet .pq .arrow .feather .csv .tsv .tab .json .jsonl .ndjson .xlsx .xls .ods .pkl .db .sqlite .lmdb .mdb "
    ".tfrecord".split()
)
_ARCHIVES = frozenset(".zip .tar .gz .tgz .bz2 .xz .7z .rar .zst".split())
_DESCRIBES = frozenset(
    ".md .rst .html .htm .doc .docx .xml .yaml .yml .toml .ini .cfg .log .bib .cff .txt .lst .srt .vtt .textgrid .lab "
    ".ltr .wrd .phn".split()
)
_DOCUMENTS = (
    "readme license licence copying notice citation authors changelog manifest checksum md5sum sha256sum "
    "dataset_info dataset_dict.json state.json makefile"
).split()


def suffix_of(name: str) -> str:
    """Return the suffix of a file in lower case, with its dot, or ""."""
    short = name[name.rfind("/") + 1 :]
    dot = short.rfind(".")
    return short[dot:].lower() if dot > 0 else ""


def suffixes_of(modality: str) -> tuple[str, ...]:
    """Return the suffixes, in lower case, of the files of a modality that can be read here."""
    return RECORD_KINDS[modality].suffixes


def modality_of(suffix: str, among: Iterable[str]) -> str | None:
    """Return the first of several modalities that a suffix belongs to; one whose library is missing has none."""
    for modality in among:
        try:
            if suffix in suffixes_of(modality):
                return modality
        except MissingDependencyError:
            pass
    return None


def is_sample_file(name: str, modality: str) -> bool:
    """Return whether the suffix of a file says that it holds samples of a modality."""
    is_text = RECORD_KINDS[modality].is_text
    return (text_suffix(name) if is_text else suffix_of(name)) in suffixes_of(modality)


def is_of_another_kind(name: str, modality: str) -> bool:
    """Return whether the suffix of a file says that it holds no sample of a modality."""
    suffix = suffix_of(name)
    if suffix in suffixes_of(modality):
        return False
    return suffix in UNREADABLE_SUFFIXES or modality_of(suffix, RECORD_KINDS) is not None


def reason_against(name: str, modality: str) -> str:
    """Return why a file is not read in a source of a modality.

    Args:
        name: Its name.
        modality: What is read.
    """
    suffix, short = suffix_of(name), name[name.rfind("/") + 1 :].lower()
    if not RECORD_KINDS[modality].is_text and suffix in suffixes_of(modality):
        return f"{PLURALS[modality]} beside a table of columns, which are read where it names them"
    other = modality_of(suffix, (name for name in ("vision", "audio", "arrays") if name != modality))
    if other is not None:
        return f"{PLURALS[other]} in a source of {PLURALS[modality]}"
    if suffix in UNREADABLE_SUFFIXES:
        return UNREADABLE_SUFFIXES[suffix]
    if short.startswith(tuple(_DOCUMENTS)):
        return "it describes the data"
    if suffix in _TABLES:
        return (
            f"a table beside {PLURALS[modality]}; to read it, name it as the source, or metadata if it describes files"
        )
    if suffix in _ARCHIVES:
        return "an archive; unpack it, or name a .zip as the source"
    if suffix in _DESCRIBES:
        return "it describes the data"
    return f"the suffix {suffix} is unknown" if suffix else "it has no suffix"


def account(
    source: str,
    layout: str,
    modality: str,
    listing: Listing,
    used: Iterable[str],
    samples: Mapping[str, int | None],
    reasons: Mapping[str, str] | None = None,
) -> Inventory:
    """Return the account of a source: each of its files is used, or left out with a reason.

    Args:
        source: The source as it was given.
        layout: What it is read as.
        modality: What is read.
        listing: Its files.
        used: Names of the files that hold samples or describe them; others than those listed are ignored.
        samples: Number of samples by split.
        reasons: Why files are left out, by name; of the others, `reason_against` says why.
    """
    taken = {*used} if not isinstance(used, set | frozenset) else used
    inventory = Inventory(source, layout, dict(samples), notes=list(listing.notes), hidden=listing.hidden)
    inventory.used = [name for name in listing.names if name in taken]
    for name in listing.names if len(inventory.used) < len(listing.names) else ():
        if name not in taken:
            inventory.leave_out(name, (reasons or {}).get(name) or reason_against(name, modality))
    for name, reason in listing.left_out:
        inventory.leave_out(name, reason)
    return inventory


def no_samples(modality: str, listing: Listing) -> NoSamplesError:
    """Return the error of a source without files of a modality, with the reason against every file of it."""
    against = account(listing.where, "", modality, listing, (), {}).lines()[1:]
    suffixes = ", ".join(suffixes_of(modality))
    expected = f"Expected parquet, or files that end in {suffixes}."
    first = f"There are no files of modality {modality} in {listing.where!r}. {expected}"
    return NoSamplesError("\n".join([first, *against]))


def completed(inventory: Inventory, modality: str, listing: Listing) -> Inventory:
    """Return the account of an opener with all files of its source: those that it does not name are left out.

    Args:
        inventory: Files that were used or left out, as names in the listing or as paths.
        modality: What is read.
        listing: The files of the source.
    """
    used = {listing.relative(name) for name in inventory.used}
    known = {}
    for reason, names in inventory.left_out.items():
        for name in map(listing.relative, names):
            # What a file is says more than what it is not.
            is_text = reason.startswith("not a text")
            is_vague = reason == "not a table" or (is_text and is_of_another_kind(name, modality))
            if not is_vague:
                known[name] = reason
    result = account(inventory.source, inventory.layout, modality, listing, used, inventory.samples, known)
    result.notes = [*inventory.notes, *result.notes]
    return result
