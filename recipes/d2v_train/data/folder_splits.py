"""What the folders of a source mean: splits, classes, or only places.

1. Folders that hold all samples between them and the source (one inside the other) are places, unless they are named
   like a split.
2. The next level of folders holds the splits if
   - all of them are named like splits (`train`, `validation`, `test` and their usual variants), with `extra`,
     `unlabeled` and `unsupervised` beside them; or
   - two of them are named like different splits, whatever the others are; or
   - the names of all begin like those of different splits, as in `train2017` and `val2017`; or
   - one of them is named like a split, and its sub-folders have the names of sub-folders beside it.
   So `car`, `plane`, `train` are three classes, while `train`, `test`, `all` are three splits.
3. The first level of folders below the splits holds the classes; deeper ones belong to their class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from d2v_train.data.tables import SPLIT_ALIASES, SPLIT_NAMES, pick_split


AUXILIARY_SPLITS = ("extra", "unlabeled", "unlabelled", "unsupervised")
"""Names of folders that are splits beside those of `SPLIT_NAMES`, but not by themselves."""

_FAMILIES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
}
_STEM = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class FolderLevels:
    """Which folders of a source are splits.

    Attributes:
        place: Folders above the splits and classes, with a slash at the end, or "".
        splits: Split of each folder at the level of splits; empty if there is none.
    """

    place: str = ""
    splits: dict[str, str] | None = None

    @classmethod
    def of(cls, names: Sequence[str]) -> FolderLevels:
        """Return the levels of a source whose samples have these names."""
        place = common_place(names, SPLIT_NAMES)
        inside: dict[str, set[str]] = {}
        for name in names:
            steps = name[len(place) :].split("/", 2)
            if len(steps) > 1:
                inside.setdefault(steps[0], set()).update(steps[1:-1])
        return cls(place, {top: top.lower() for top in inside} if _are_splits(inside) else None)

    def split_of(self, name: str) -> str | None:
        """Return the split of a file; None if it lies beside the folders of the splits."""
        if not self.splits:
            return "train"
        return self.splits.get(name[len(self.place) :].partition("/")[0]) if name.startswith(self.place) else None

    def below(self, name: str) -> str:
        """Return the name of a file below the splits."""
        inner = name[len(self.place) :] if name.startswith(self.place) else name
        top, _, rest = inner.partition("/")
        return rest if self.splits and top in self.splits else inner


def classes_of(names: Sequence[str], levels: FolderLevels, existing: Sequence[str] | None = None) -> list[str | None]:
    """Return the class of each file, the first folder below the splits; None without such a folder.

    A folder that holds a whole split and is not a class of another one is a place, such as `test/images` beside
    `train/cat` and `train/dog`.

    Args:
        names: The files.
        levels: Levels of the source.
        existing: Those of them that exist; None for all.
    """
    inner = [levels.below(name) for name in names]
    place = common_place(inner if existing is None else [levels.below(name) for name in existing])
    below = (name[len(place) :] if name.startswith(place) else "" for name in inner)
    found = [name.rpartition("/")[0].partition("/")[0] or None for name in below]
    by_split: dict[str | None, set[str | None]] = {}
    for name, label in zip(names, found, strict=True):
        by_split.setdefault(levels.split_of(name), set()).add(label)
    for split, labels in by_split.items():
        others = set().union(*(classes for other, classes in by_split.items() if other != split))
        if len(labels) == 1 and others and not labels & others:
            found = [None if levels.split_of(name) == split else at for name, at in zip(names, found, strict=True)]
    return found


def split_family(name: str) -> str | None:
    """Return "train", "validation" or "test" if a name begins like one, such as train-clean-100; else None."""
    stem = _STEM.match(name.lower())
    return _FAMILIES.get(stem.group()) if stem else None


def splits_meant(wanted: str, existing: Iterable[str], where: str) -> list[str]:
    """Return the existing splits that a name means.

    That is the split of this name (`train.clean.100` is `train-clean-100`), else all of its kind, such as
    train-clean-100 and train-clean-360 for `train`, else what `pick_split` finds.

    Raises:
        SplitNotFoundError: If there is none.
    """
    existing = list(existing)
    for name in (wanted, wanted.replace(".", "-")):
        if name in existing:
            return [name]
    usual = SPLIT_ALIASES.get(wanted, ())
    if wanted in _FAMILIES and not any(name in existing and _FAMILIES[name] == _FAMILIES[wanted] for name in usual):
        kind = [name for name in existing if split_family(name) == _FAMILIES[wanted]]
        if kind:
            return kind
    return [pick_split(wanted, existing, where)]


def _are_splits(inside: dict[str, set[str]]) -> bool:
    """Return whether folders are splits, given the names of the folders in each of them."""
    exact = {top for top in inside if top.lower() in SPLIT_NAMES}
    others = inside.keys() - exact
    families = {split_family(top) for top in inside}
    if len({split_family(top) for top in exact}) > 1 or (len(families) > 1 and None not in families):
        return True
    if not exact or all(top.lower() in AUXILIARY_SPLITS for top in others):
        return bool(exact)
    return any(inside[split] & inside[other] for split in exact for other in others)


def common_place(names: Sequence[str], ends: Iterable[str] = ()) -> str:
    """Return the folders that hold all names, one inside the other, up to one of the given names."""
    if not names:
        return ""
    folders = [name.split("/")[:-1] for name in (min(names), max(names))]
    shared = []
    for step, other in zip(*folders, strict=False):
        if step != other or step.lower() in ends:
            break
        shared.append(step)
    return "".join(f"{step}/" for step in shared)
