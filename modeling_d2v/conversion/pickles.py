"""Safe reading of the objects in a pickled checkpoint, without running code.

A pickle names the functions and classes ("globals") that make its objects, and the usual reader imports and calls
them: opening a file may run any program. Checkpoints of fairseq name argparse, omegaconf and fairseq classes, which
need not be installed, as only the values of their objects are read. Globals are treated in three ways:

- those that make tensors are left to `torch.load(weights_only=True)`;
- for those of `HOSTILE`, which run programs and which no checkpoint needs, the file is refused, with their names;
- any other is replaced by a stand-in that stores its arguments and does nothing. Those that are not in `ALLOWED` are
  unknown, and reported (`unknown_globals`).

Safety rests on the stand-ins, which never import or call what they stand for, and not on the list of hostile names.
"""

import itertools
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
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
    "datetime.",
    "decimal.Decimal",
    "fractions.Fraction",
    "types.SimpleNamespace",
    "uuid.UUID",
    *(f"builtins.{name}" for name in "bool bytes dict float frozenset int list object str tuple type".split()),
)
# Paths; Python 3.13 calls their module pathlib._local.
_PATHS = re.compile(r"pathlib(\._\w+)?\.\w*Path")
# Classes of Python that hold values.
_PLAIN_BUILTINS = re.compile(
    r"builtins\.(\w*(Error|Exception|Warning|Exit)|KeyboardInterrupt|StopIteration|slice|range|Ellipsis|NotImplemented"
    # Functions that compute a value of their arguments.
    r"|abs|all|any|ascii|bin|callable|chr|divmod|enumerate|filter|format|hash|hex|id|isinstance|issubclass|iter|len|map"
    r"|max|memoryview|min|next|oct|ord|pow|print|property|repr|reversed|round|sorted|sum|zip|classmethod|staticmethod)"
)
# Globals that `torch.load(weights_only=True)` allows itself, as far as weights need them.
OF_TORCH = re.compile(
    r"torch\.(\w+Storage|Size|device|u?int\d+|b?float\d+(_\w+)?|complex\d+|bool|Tensor)"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
)
# Tensors that data2vec does not have, by a mark in the name of the function that makes them.
SPECIAL_TENSORS = {
    "sparse": "sparse tensors",
    "qtensor": "quantised tensors",
    "nested": "nested tensors",
    "meta_tensor": "tensors without data (of the meta device)",
    "wrapper_subclass": "tensors of a subclass",
    "device_tensor": "tensors of a special device",
    "distributed": "slices of tensors that are distributed over several processes",
}
# Parts of a name that lead from any module into the interpreter.
_INTO_THE_INTERPRETER = frozenset(
    "os sys posix nt subprocess builtins importlib shutil __builtins__ __import__ __globals__ __subclasses__ "
    "__class__ __base__ __mro__ __dict__ __code__ __loader__ __spec__ __getattribute__".split()
)
# Modules, or single names, that run programs, open files or reach into the interpreter. No checkpoint needs them.
# Names that only look technical are not here: an unknown class is no danger.
HOSTILE = tuple(
    "_frozen_importlib _operator.attrgetter _operator.methodcaller _pickle _posixsubprocess _thread _winapi "
    "atexit bdb builtins cProfile cloudpickle code.InteractiveConsole code.InteractiveInterpreter code.interact "
    "codeop commands.getoutput commands.getstatusoutput copyreg._reconstructor copyreg.add_extension ctypes dill "
    "distutils doctest ftplib http.client http.server idlelib imp importlib io.FileIO io.open io.open_code "
    "linecache marshal mmap nt numpy.ctypeslib numpy.distutils numpy.f2py numpy.load numpy.testing "
    "operator.attrgetter operator.methodcaller os pdb pickle pip pkgutil posix profile.run profile.runctx pty "
    "pydoc runpy setuptools shelve shutil signal.signal smtplib socket socketserver ssl subprocess sys tarfile "
    "telnetlib timeit torch._dynamo torch._inductor torch.classes torch.hub torch.jit.load torch.load torch.ops "
    "torch.package torch.save torch.serialization torch.utils.cpp_extension types.CodeType types.FunctionType "
    "urllib venv webbrowser winreg xmlrpc zipfile zipimport".split()
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
    """Error for a file that refers to a function that runs programs, which no checkpoint needs."""


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


class _DictLike:
    """A class whose objects the pickle fills like a dictionary; these may have attributes as well, unlike a `dict`."""

    def __new__(cls, *args: Any) -> OrderedDict:
        return OrderedDict()


class _ListLike:
    """A class whose objects the pickle fills like a list."""

    def __new__(cls, *args: Any) -> list:
        return []


def _empty_dict(*args: Any) -> dict:
    return {}


def _empty_list(*args: Any) -> list:
    return []


# Containers that the pickle fills after it has made them.
_CONTAINERS = {"collections.defaultdict": _empty_dict, "collections.deque": _empty_list}


def add_globals(names: dict[str, str | None], file: BinaryIO) -> None:
    """Add the full names of the globals in one pickle; the file is read to the end of that pickle.

    Args:
        names: Receives the names, with "dict" or "list" for classes whose objects are filled like these, else `None`.
        file: A binary file at the beginning of a pickle.

    Raises:
        ValueError: The bytes are not a pickle, or of a protocol that `torch.save` does not use. `names` holds what was
            found before.
    """
    strings: list[str | None] = [None, None]
    memo: dict[int, str | None] = {}
    foreign, tracker = None, _Tracker(names)
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = argument.partition(" ")
            # Pickles of protocol 2 use the names of Python 2.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.setdefault(f"{module}.{name}")
            argument = f"{module}.{name}"
        elif operation.name == "STACK_GLOBAL":
            foreign = operation.name
            if None not in strings[-2:]:
                names.setdefault(".".join(strings[-2:]))
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
        tracker.follow(operation, argument)
    if foreign is not None:
        raise ValueError(
            f"it is a pickle that uses {foreign}, which `torch.save` does not write unless it is given another "
            "protocol; save it again with the default protocol"
        )


class _Tracker:
    """Follows which objects a pickle makes of its globals, to find those that it then fills like a dict or a list.

    Args:
        names: See `add_globals`.
    """

    MARK = object()

    def __init__(self, names: dict[str, str | None]) -> None:
        self.names = names
        self.stack: list[Any] = []  # name of the global that an object is ("global") or is made of ("made"), else None
        self.memo: dict[int, Any] = {}

    def follow(self, operation: Any, argument: Any) -> None:
        """Do to the stack what an operation does to that of the reader; `argument` of a global is its full name."""
        name = operation.name
        if name == "GLOBAL":
            self.stack.append(("global", argument))
        elif name.endswith("PUT"):
            self.memo[argument] = self.stack[-1] if self.stack else None
        elif name.endswith("GET"):
            self.stack.append(self.memo.get(argument))
        elif name in ("NEWOBJ", "REDUCE"):
            self._pop(1)
            source = self._pop(1)
            self.stack.append(("made", source[1]) if isinstance(source, tuple) else None)
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._take(operation.stack_before[1:])
            target = self.stack[-1] if self.stack else None
            if isinstance(target, tuple) and target[0] == "made":
                self.names[target[1]] = "dict" if name.startswith("SET") else "list"
        elif name == "BUILD":
            self._pop(1)
        else:
            self._take(operation.stack_before)
            made = self.MARK if name == "MARK" else None
            self.stack += [made] * len(operation.stack_after)

    def _take(self, what: list[Any]) -> None:
        if pickletools.markobject in what:
            while self.stack and self.stack.pop() is not self.MARK:
                pass
            self._pop(what.index(pickletools.markobject))
        else:
            self._pop(len(what))

    def _pop(self, count: int) -> Any:
        last = None
        for _ in range(min(count, len(self.stack))):
            last = self.stack.pop()
        return last


def _is_allowed(name: str) -> bool:
    known = any(name == entry or (entry.endswith(".") and name.startswith(entry)) for entry in ALLOWED)
    return known or bool(_PATHS.fullmatch(name) or _PLAIN_BUILTINS.fullmatch(name))


def _is_hostile(name: str) -> bool:
    if not _NAME.fullmatch(name) or not _INTO_THE_INTERPRETER.isdisjoint(name.split(".")[1:]):
        return True
    return not _is_allowed(name) and any(name == entry or name.startswith(f"{entry}.") for entry in HOSTILE)


def unknown_globals(names: Iterable[str]) -> list[str]:
    """Return the globals that stand-ins replace although no checkpoint of the reference holds them."""
    return [
        name
        for name in sorted(names)
        if not (_is_allowed(name) or name in _CONTAINERS or OF_TORCH.fullmatch(name) or _is_hostile(name))
    ]


def _stand_in(name: str, kind: str | None) -> type:
    base = {"dict": _DictLike, "list": _ListLike}.get(kind, StandIn)
    return type(name.rpartition(".")[2], (base,), {"source": name})


def stand_ins(kinds: Mapping[str, str | None], where: str) -> list[tuple[Callable[..., Any], str]]:
    """Return stand-ins for the globals that torch does not know, as `torch.serialization.safe_globals` takes them.

    Args:
        kinds: All globals, see `add_globals`.
        where: Name of the file in errors.

    Raises:
        UnsafeCheckpointError: A global runs programs; the message names them.
        ValueError: Tensors are of a kind that data2vec does not have.
    """
    names = sorted(kinds)
    others = [name for name in names if not OF_TORCH.fullmatch(name) and name not in _CONTAINERS]
    refused = [name for name in others if _is_hostile(name)]
    if refused:
        # The file may contain anything: print nothing but letters to the terminal.
        refused = [name if _NAME.fullmatch(name) else ascii(name[:100]) for name in refused]
        shown = refused[:10] + ([f"{len(refused) - 10} more"] if len(refused) > 10 else [])
        raise UnsafeCheckpointError(
            f"{where} was not opened: it refers to {', '.join(shown)}, which no data2vec checkpoint needs. A file "
            "like this can run any program when it is opened in the usual way; nothing of it was run. Get the file "
            "from its publisher again, and check where this one came from."
        )
    for name in others:
        if re.match(r"torch\.(_utils|_tensor|nested|sparse|distributed\._?(tensor|shard\w*|fsdp))\.", name):
            kind = next((kind for mark, kind in SPECIAL_TENSORS.items() if mark in name), "tensors of another kind")
            raise ValueError(
                f"{where} holds {kind} ({name}), which data2vec does not have. Load it where it was written, and save "
                "it again with ordinary tensors."
            )
    made = [(_CONTAINERS[name], name) for name in names if name in _CONTAINERS]
    return made + [(_stand_in(name, kinds.get(name)), name) for name in others]


def plain(value: Any) -> Any:
    """Replace stand-ins by the dictionaries, lists, numbers and strings that they stand for.

    Namespaces, omegaconf containers, dataclasses and other objects with attributes become dictionaries; nodes of
    omegaconf and numbers of numpy their values, its arrays lists; members of enumerations their names if known, else
    their values; paths strings. Other stand-ins and tensors are unchanged.

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
    if value.source.startswith("numpy"):
        return _plain_numpy(value, name)
    if value.source in ("builtins.bytes", "builtins.frozenset", "builtins.tuple") and not value.args:
        return {"bytes": b"", "frozenset": set(), "tuple": ()}[name]
    if value.source == "builtins.frozenset":
        return _plain(set(value.args[0]), above, count)
    if value.source.startswith("pathlib."):
        windows = "Windows" in name
        return str((PureWindowsPath if windows else PurePosixPath)(*(str(part) for part in value.args)))
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


def _plain_numpy(value: StandIn, name: str) -> Any:
    """Return a number, a list of numbers or the name of a data type; other objects of numpy unchanged."""
    if name == "scalar" and _has_plain_type(value.args[0]):
        dtype, data = value.args
        return np.frombuffer(data, dtype=_dtype(dtype), count=1)[0].item()
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, column_major, data = value.state
        data = _plain(data, frozenset(), itertools.count(1))
        if isinstance(data, bytes) and _has_plain_type(dtype):
            array = np.frombuffer(data, dtype=_dtype(dtype))
            return array.reshape(shape, order="F" if column_major else "C").tolist()
    if name == "dtype" and value.args and _has_plain_type(value):
        return _dtype(value).name
    return value


def _has_plain_type(value: StandIn) -> bool:
    """Return whether a data type is a number or a string, not a record with fields."""
    fields = value.state[3:5] if isinstance(value.state, tuple) else ()
    return not isinstance(value.args[0], StandIn) and not str(value.args[0]).startswith("V") and not any(fields)


def _dtype(value: StandIn) -> np.dtype:
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    dtype = np.dtype(str(value.args[0]))
    if dtype.hasobject:
        raise TypeError(f"{dtype} refers to objects, which are not stored in bytes")
    return dtype.newbyteorder(order if order in ("<", ">") else "=")


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
