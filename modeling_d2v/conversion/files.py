"""Safe reading of checkpoint files: `.pt` and `.pth` of torch, `.safetensors`, whole or in parts.

No code in a file is run, see `pickles.py`. Tensors of the zip format and of safetensors are mapped into memory: unused
ones are never read.
"""

import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modeling_d2v.conversion.pickles import StandIn, add_globals, plain, resolve, stand_ins, unknown_globals


# "model-part-0.pt", "checkpoint_last-shard0.pt", "model-00001-of-00003.safetensors"
_PART = re.compile(r"^(?P<stem>(?:.*[-_.])?(?:model[-_]part|shard|part)[-_]?)(?P<number>\d+)(?P<end>\.\w+)$")
_PART_OF = re.compile(r"^(?P<stem>.*-)(?P<number>\d+)(?P<end>-of-(?P<count>\d+)\.\w+)$")
# Pickles that a file of the legacy format begins with: magic number, protocol, machine, content, storages.
_LEGACY_PICKLES = 5
# Formats of other programs by their first bytes.
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x93NUMPY": "an array of numpy, without names of tensors",
    b"GGUF": "a GGUF file of llama.cpp",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"%PDF": "a PDF document",
    b"\x08\x07\x12": "an ONNX program",
    b"\x08\x08\x12": "an ONNX program",
    b"\n\x0e\n\x05<unk>": "a tokenizer of sentencepiece, not a model",
}
# Errors of torch for damaged files, beside its own classes.
_DAMAGE = (
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    OSError,
    MemoryError,
)


class Checkpoint(dict[str, Any]):
    """The content of a file.

    Attributes:
        unknown: Names of the classes that no checkpoint of the reference holds: of their objects only the attributes
            were read.
    """

    unknown: tuple[str, ...] = ()


def read_checkpoint(path: str | PathLike) -> Checkpoint:
    """Read a checkpoint without running anything in it.

    Args:
        path: A file, or one of several numbered parts, which are all read and joined.

    Returns:
        The content of the file: dictionaries, lists, numbers, strings and tensors (on the CPU). Objects of classes
        that are not imported are plain dictionaries, see `plain`. A `.safetensors` file gives {"model": tensors}.

    Raises:
        UnsafeCheckpointError: The file refers to a function that runs programs.
        ValueError: The file is not a checkpoint, or damaged; the message names the reason.
        FileNotFoundError: The file or a part is missing.
    """
    path = Path(path)
    parts = _parts(path)
    if len(parts) == 1:
        return read_file(path)
    return _join([read_file(part) for part in parts], parts)


def read_file(path: Path) -> Checkpoint:
    """Read one file, without the other parts of a checkpoint beside it."""
    if not path.is_file():
        found = "It is a folder." if path.is_dir() else f"It is not in the folder {path.parent}."
        raise FileNotFoundError(f"There is no checkpoint file {path}. {found}")
    with open(path, "rb") as file:
        start = file.read(512)
    reader = _read_zip if start.startswith(b"PK") else _read_legacy if start.startswith(b"\x80") else None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if reader is None or not start:
        raise _broken(path, _what_starts_with(start, path))
    content, unknown = reader(path)
    if isinstance(content, StandIn) and isinstance(content.state, Mapping):
        content = {"model": content}
        if "_modules" not in content["model"].state:
            raise _broken(path, f"it holds a single object of the class {content['model'].source}, not weights")
    if not isinstance(content, Mapping):
        what = content.source if isinstance(content, StandIn) else type(content).__name__
        raise _broken(path, f"it holds a {what} instead of a dictionary")
    try:
        content = Checkpoint(plain(content))
        if isinstance(content.get("cfg"), Mapping):
            content["cfg"] = resolve(content["cfg"])
    except RecursionError:
        raise _broken(path, "its content is nested too deeply") from None
    except _DAMAGE as error:
        raise _broken(path, f"its content beside tensors is invalid ({_last_line(error)})") from None
    content.unknown = tuple(unknown)
    return content


def _read_zip(path: Path) -> tuple[Any, list[str]]:
    globals_: dict[str, str | None] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename.partition("/")[2] for entry in entries}
            if "constants.pkl" in names or "code" in {name.partition("/")[0] for name in names}:
                raise _broken(path, "it is a TorchScript program, not a checkpoint: its weights come with code")
            if "data.pkl" not in names:
                raise _broken(path, f"it is {_what_zip_holds([entry.filename for entry in entries])}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _broken(path, "it was packed again with compression, which torch does not do")
            # All of them are checked: torch may read another one than the first.
            for entry in (entry for entry in entries if entry.filename.endswith("/data.pkl")):
                with archive.open(entry) as file:
                    _scan(path, file, globals_)
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise _broken(
            path, f"it begins like a checkpoint of torch, but its end is missing or damaged ({error})"
        ) from None
    return _load(path, globals_, mmap=True)


def _read_legacy(path: Path) -> tuple[Any, list[str]]:
    """Read a file from before torch 1.6, or saved without the zip format; it cannot be mapped into memory."""
    names: dict[str, str | None] = {}
    with open(path, "rb") as file:
        for _ in range(_LEGACY_PICKLES):
            _scan(path, file, names)
    return _load(path, names, mmap=False)


def _scan(path: Path, file: BinaryIO, names: dict[str, str | None]) -> None:
    try:
        add_globals(names, file)
    except ValueError as error:
        stand_ins(names, str(path))  # a dangerous file is reported as such even if it is damaged
        raise _broken(path, f"its list of objects cannot be read ({error})") from None


def _load(path: Path, names: dict[str, str | None], mmap: bool) -> tuple[Any, list[str]]:
    """Return the content of a file, and the unknown classes in it."""
    allowed = stand_ins(names, str(path))
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            return content, unknown_globals(names)
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        if "persistent_load" in str(error):
            # This format stores modules with the source text of their classes.
            raise _broken(
                path,
                "it holds a model pickled as an object, in the format from before torch 1.6; load it where it was "
                "written, and save its `state_dict()`",
            ) from None
        raise _broken(path, f"torch cannot read it ({_last_line(error)})") from None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if "documentation" not in line]
    return (useful or [type(error).__name__])[-1][:200]


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            return Checkpoint(model={name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, OSError) as error:
        raise _broken(path, f"it is not a complete safetensors file ({error})") from None


def _what_starts_with(start: bytes, path: Path) -> str:
    """Return what a file is that neither torch nor safetensors wrote."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is only the pointer of git-lfs to the file; fetch the file itself with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "it is a web page, such as the error page of a download"
    if start[257:262] == b"ustar":
        return _what_tar_holds(path)
    if start.lstrip()[:1] in (b"{", b"["):
        return _what_json_holds(path)
    for beginning, what in _OTHER_FORMATS.items():
        if start.startswith(beginning):
            return f"it is {what}"
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "it is a safetensors file; rename it to end in .safetensors"
    return f"it begins with {start[:8]!r}, which neither torch nor safetensors write"


def _what_zip_holds(names: list[str]) -> str:
    if names and all(name.endswith(".npy") for name in names):
        return "a collection of arrays of numpy (.npz), not a checkpoint of torch"
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        return "a program that `torch.export` wrote, not a checkpoint"
    inside = [name for name in names if name.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors"))]
    if inside:
        return f"a zip archive with {inside[0]}; unpack it and give that file"
    return "a zip archive, but not one that `torch.save` wrote"


def _what_tar_holds(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except (tarfile.TarError, OSError, EOFError):
        names = []
    if {"pickle", "storages", "tensors"} <= set(names):
        return (
            "it is in the tar format of torch before 0.1.10 (2017), which has no safe reader; load it where it comes "
            "from and save it again with a recent torch"
        )
    return (
        f"it is a tar archive ({', '.join(names[:3]) or 'damaged or empty'}); unpack it and give the checkpoint in it"
    )


def _what_json_holds(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        return "it is a text file"
    keys = content.keys() if isinstance(content, dict) else set()
    if "weight_map" in keys:
        return "it is the index of several files of weights, not the weights: give the first of these"
    if "model" in keys and ("added_tokens" in keys or "pre_tokenizer" in keys):
        return "it is a tokenizer, not a model"
    return "it is a JSON file, which holds settings or a vocabulary, but no weights"


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} ({path.stat().st_size:,} bytes) cannot be read as a checkpoint: {reason}. If it was downloaded or "
        "copied, do that again and compare the size with the publisher's."
    )


def _parts(path: Path) -> list[Path]:
    """Return all numbered files of the checkpoint that `path` is a part of, in order."""
    found = _PART_OF.match(path.name) or _PART.match(path.name)
    if not found or not path.is_file():
        return [path]
    pattern = re.compile(re.escape(found["stem"]) + r"(\d+)" + re.escape(found["end"]))
    numbers = {int(match[1]): file for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name))}
    first = min(numbers)
    count = int(found.groupdict().get("count") or max(numbers) + 1 - first)
    missing = sorted(set(range(first, first + count)) - set(numbers))
    if first > 1 or missing:
        missing = missing or list(range(first))
        raise FileNotFoundError(
            f"{path} is one of several parts, and the parts {missing} are missing in {path.parent}. Put all parts "
            "into one folder."
        )
    return [numbers[number] for number in sorted(numbers)]


def _join(contents: list[Checkpoint], parts: list[Path]) -> Checkpoint:
    """Join parts that each hold some of the tensors into one checkpoint."""
    whole, tensors = Checkpoint(contents[0]), {}
    whole.unknown = tuple(sorted({name for content in contents for name in content.unknown}))
    for content, part in zip(contents, parts, strict=True):
        if "shard_metadata" in content or not isinstance(content.get("model"), Mapping):
            raise ValueError(
                f"{part} is a part in which tensors are flattened and cut across processes (`shard_metadata`). Join "
                "the parts with the program that wrote them, fairseq's `consolidate_fsdp_shards`, and convert the "
                "result."
            )
        for name, value in content["model"].items():
            if name not in tensors:
                tensors[name] = value
            elif isinstance(value, Tensor) and not (
                isinstance(tensors[name], Tensor) and torch.equal(value, tensors[name])
            ):
                raise ValueError(
                    f"{name} is in {part} and in an earlier part, with other values: these parts hold slices of the "
                    "same tensors. Join them with the program that wrote them, and convert the result."
                )
            elif isinstance(value, Mapping):
                tensors[name] = {**tensors[name], **value}
    whole["model"] = tensors
    return whole
