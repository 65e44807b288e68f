"""Safe reading of the objects in a pickled checkpoint, without running code.

A pickle names the functions and classes ("globals") that make its objects, and the usual reader imports and calls
them: opening a file may run any program. Checkpoints of fairseq name argparse, omegaconf and fairseq classes, which
need not be installed, as only the values of their objects are read. Globals are treated in three ways:

- those that make tensors are left to `torch.load(weights_only=True)`;
- those of `ALLOWED` are replaced by a stand-in that stores its arguments and does nothing;
- for any other the file is refused, with the name of the global.
"""

import itertools
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np


# Modules, or single names, whose objects become stand-ins.
ALLOWED = (
    "argparse.Namespace",
    "omegaconf.",
    "hydra.",
    "fairseq.",
    "fairseq_cli.",
    "examples.data2vec.",
    "data2vec.",  # the same folder, given as user_dir
    "deepspeed.",
    "typing.",
    "_operator.getitem",  # how omegaconf 2.0 writes List[int]
    "collections.defaultdict",
    "collections.deque",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"builtins.{name}" for name in "bool bytes dict float frozenset int list object str tuple type".split()),
)
# Globals that `torch.load(weights_only=True)` allows itself, as far as weights need them.
OF_TORCH = re.compile(
    r"torch\.(\w+Storage|Size|device|u?int\d+|b?float\d+|bool)|torch\.storage\.(Untyped|Typed)Storage"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
)
# Enumerations are pickled by value; settings name their members.
ENUMS = {
    "Modality": {1: "AUDIO", 2: "IMAGE", 3: "TEXT"},
    "PredictionMode": {1: "MEAN_POOLING", 2: "CLS_TOKEN", 3: "LIN_SOFTMAX"},
}


_NAME = re.compile(r"[\w.]{1,200}")
# More than any checkpoint holds: a few lists that refer to each other can expand without end.
MAX_OBJECTS = 1_000_000


class UnsafeCheckpointError(ValueError):
    """Error for a file that refers to a function or class that no data2vec checkpoint needs."""


class StandIn:
    """An object of a class that is not imported.

    Attributes:
        source: Full name of that class or function.
        args: Arguments of the call.
        state: Values of its attributes, or `None`.
    """

    source = ""

    def __new__(cls, *args: Any) -> "StandIn":
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.source}>"


def _empty_dict(*args: Any) -> dict:
    return {}


def _empty_list(*args: Any) -> list:
    return []


# Containers that the pickle fills after it has made them.
_CONTAINERS = {"collections.defaultdict": _empty_dict, "collections.deque": _empty_list}


def add_globals(names: set[str], file: BinaryIO) -> None:
    """Add the full names of the globals in one pickle; the file is read to the end of that pickle.

    Raises:
        ValueError: The bytes are not a pickle, or of a protocol that `torch.save` does not use. `names` holds what was
            found before.
    """
    strings: list[str | None] = [None, None]
    memo: dict[int, str | None] = {}
    foreign = None
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = argument.partition(" ")
            # Pickles of protocol 2 use the names of Python 2.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.add(f"{module}.{name}")
        elif operation.name == "STACK_GLOBAL":
            foreign = operation.name
            if None not in strings[-2:]:
                names.add(".".join(strings[-2:]))
        elif operation.name.startswith("EXT"):
            foreign = operation.name
        # The two strings that STACK_GLOBAL takes, which may be in the memo.
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = strings[-1]
        elif operation.name.endswith("PUT"):
            memo[argument] = strings[-1]
        else:
            value = memo.get(argument) if operation.name.endswith("GET") else argument
            strings = [strings[-1], value if isinstance(value, str) else None]
    if foreign is not None:
        raise ValueError(
            f"it is a pickle that uses {foreign}, which `torch.save` does not write unless it is given another "
            "protocol; save it again with the default protocol"
        )


def stand_ins(names: Iterable[str], where: str) -> list[tuple[Callable[..., Any], str]]:
    """Return stand-ins for the globals that torch does not know, as `torch.serialization.safe_globals` takes them.

    Args:
        names: Names of all globals, see `add_globals`.
        where: Name of the file in errors.

    Raises:
        UnsafeCheckpointError: A global is not allowed; the message names them.
    """
    made, refused = [], []
    for name in sorted(names):
        if name in _CONTAINERS:
            made.append((_CONTAINERS[name], name))
        elif _NAME.fullmatch(name) and any(
            name == entry or (entry.endswith(".") and name.startswith(entry)) for entry in ALLOWED
        ):
            made.append((type(name.rpartition(".")[2], (StandIn,), {"source": name}), name))
        elif not OF_TORCH.fullmatch(name):
            # The file may contain anything: print nothing but letters to the terminal.
            refused.append(name if _NAME.fullmatch(name) else ascii(name[:100]))
    if refused:
        shown = refused[:10] + ([f"{len(refused) - 10} more"] if len(refused) > 10 else [])
        raise UnsafeCheckpointError(
            f"{where} was not opened: it refers to {', '.join(shown)}, which no data2vec checkpoint needs. A file "
            "like this can run any program when it is opened in the usual way; nothing of it was run. Get the file "
            "from its publisher again, and check where this one came from."
        )
    return made


def plain(value: Any) -> Any:
    """Replace stand-ins by the dictionaries, lists, numbers and strings that they stand for.

    Namespaces, omegaconf containers and dataclasses become dictionaries; nodes of omegaconf their values; members of
    enumerations their names if known, else their values. Other stand-ins and tensors are unchanged.

    Raises:
        ValueError: There are more than `MAX_OBJECTS`.
        TypeError, LookupError: An object has another content than those of its class.
    """
    return _plain(value, frozenset(), itertools.count(1))


def _plain(value: Any, above: frozenset[int], count: Iterator[int]) -> Any:
    if next(count) > MAX_OBJECTS:
        raise ValueError(f"it unfolds into more than {MAX_OBJECTS:,} objects")
    if not isinstance(value, Mapping | list | tuple | set | StandIn):
        return value
    if id(value) in above:
        return None  # omegaconf nodes refer to their parents
    above = above | {id(value)}
    if isinstance(value, Mapping):
        return {_plain(key, above, count): _plain(inner, above, count) for key, inner in value.items()}
    if isinstance(value, StandIn):
        return _plain_stand_in(value, above, count)
    return type(value)(_plain(inner, above, count) for inner in value)


def _plain_stand_in(value: StandIn, above: frozenset[int], count: Iterator[int]) -> Any:
    state, name = value.state, value.source.rpartition(".")[2]
    if name == "scalar" and value.source.startswith("numpy"):
        dtype, data = value.args
        return np.frombuffer(data, dtype=str(dtype.args[0]), count=1).item()
    if value.source.startswith("pathlib."):
        return "/".join(str(part) for part in value.args)
    if isinstance(state, tuple) and len(state) == 2:
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, Mapping):
        if value.source.startswith("omegaconf."):
            if "_content" in state:
                return _plain(state["_content"], above, count)
            if "fields" in state and isinstance(state.get("_val"), StandIn):
                members = {number: member for member, number in state["fields"].items()}
                return members.get(state["_val"].args[0], state["_val"].args[0])
            return _plain(state.get("_val"), above, count)
        return _plain(state, above, count)
    if len(value.args) == 1 and isinstance(value.args[0], str | int):
        return ENUMS.get(name, {}).get(value.args[0], value.args[0])
    return value


def resolve(settings: Any, root: Mapping[str, Any] | None = None) -> Any:
    """Replace "${task.data}" by the value at that path, as omegaconf does on access.

    Missing paths are left unresolved: the settings of the model never depend on them.
    """
    root = settings if root is None else root
    if isinstance(settings, Mapping):
        return {key: resolve(value, root) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [resolve(value, root) for value in settings]
    found = re.fullmatch(r"\$\{([\w.]+)\}", settings) if isinstance(settings, str) else None
    if not found:
        return settings
    place: Any = root
    for key in found[1].split("."):
        if not isinstance(place, Mapping) or key not in place:
            return settings
        place = place[key]
    return settings if isinstance(place, str) and place.startswith("${") else place
