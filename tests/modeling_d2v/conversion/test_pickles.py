"""Pickles of unknown origin: read without importing or running anything."""

import argparse
import copyreg
import dataclasses
import enum
import functools
import importlib
import operator
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_d2v.conversion.files import read_checkpoint
from modeling_d2v.conversion.pickles import StandIn, UnsafeCheckpointError, plain, resolve


FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PICKLES = sorted((FIXTURES / "pickles").glob("*.pt"))
ZIP, LEGACY = {}, {"_use_new_zipfile_serialization": False}


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def archive(path: Path, *pickles: bytes) -> Path:
    """A file in torch's format around one pickle or several."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for content in pickles:
            file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


def calling(module: str, name: str, *args: Any) -> bytes:
    """The pickle of {"args": module.name(*args)}, for names that need not exist."""
    call = f"c{module}\n{name}\n".encode() + pickle.dumps(args, 2)[2:-1] + b"R"
    return b"\x80\x02}X\x04\x00\x00\x00args" + call + b"s."


def test_reading_imports_nothing():
    """In a process of its own, in which the classes do not exist and nobody has registered any."""
    code = (
        "import sys, torch; from modeling_d2v.conversion.files import read_checkpoint\n"
        "before, known = set(sys.modules), torch.serialization.get_safe_globals()\n"
        f"read_checkpoint({str(PICKLES[0])!r})\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'omegaconf', 'fairseq', 'examples', 'hydra'}, new\n"
        "assert set(torch.serialization.get_safe_globals()) == set(known)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=FIXTURES.parents[1], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("posix.system", lambda canary: Calls(os.system, f"touch {canary}")),
        ("builtins.eval", lambda canary: Calls(eval, f"open({str(canary)!r}, 'w')")),
        ("builtins.exec", lambda canary: [{"deep": (Calls(exec, f"open({str(canary)!r}, 'w')"),)}]),
        ("builtins.getattr", lambda canary: Calls(getattr, Calls(dict), "update")),
        ("subprocess.Popen", lambda canary: Calls(subprocess.Popen, ["touch", str(canary)])),
        ("copyreg._reconstructor", lambda canary: Calls(copyreg._reconstructor, object, object, None)),
        ("torch.hub.load", lambda canary: Calls(torch.hub.load, str(canary.parent), "model", "local")),
        ("runpy.run_path", lambda canary: Calls(runpy.run_path, str(canary))),
        ("importlib.import_module", lambda canary: Calls(importlib.import_module, "antigravity")),
        ("posix.system", lambda canary: functools.partial(os.system, f"touch {canary}")),
        ("operator.methodcaller", lambda canary: Calls(operator.methodcaller, "touch")),
        ("shutil.rmtree", lambda canary: {canary.parent: Calls(shutil.rmtree, str(canary))}),
        ("pickle.loads", lambda canary: Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {canary}")))),
        ("torch.serialization.load", lambda canary: Calls(torch.load, str(canary))),
    ],
)
def test_files_that_ask_for_more_are_refused_and_nothing_is_run(name, make, options, tmp_path, recwarn):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    torch.save({"cfg": make(canary), "model": {"weight": torch.ones(2)}}, path, **options)
    with pytest.raises(UnsafeCheckpointError, match=name.replace(".", r"\.")) as caught:
        read_checkpoint(path)
    assert not canary.exists()
    message = str(caught.value)
    assert str(path) in message and "nothing of it was run" in message and "\n" not in message


@pytest.fixture
def lab(monkeypatch):
    """A module with classes that exist while a file is written, and not when it is read."""
    module = types.ModuleType("mylab")
    monkeypatch.setitem(sys.modules, "mylab", module)

    def add(cls):
        cls.__module__, cls.__qualname__ = "mylab", cls.__name__
        setattr(module, cls.__name__, cls)
        return cls

    return add


def read_where_unknown(content, path, monkeypatch, **options):
    torch.save(content, path, **options)
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    return read_checkpoint(path)


@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
def test_objects_of_unknown_classes_are_read_as_their_values_and_named(lab, tmp_path, monkeypatch, options):
    @lab
    class Plain:
        pass

    @lab
    class Attributes(dict):
        def __init__(self, **values):
            super().__init__(**values)
            self.__dict__ = self

    @lab
    class Several(list):
        pass

    @lab
    class Colour(enum.Enum):
        RED = "red"

    @lab
    @dataclasses.dataclass(slots=True)
    class Slots:
        size: int = 3

    @lab
    @dataclasses.dataclass
    class Options:
        rate: float = 0.5
        slots: Any = dataclasses.field(default_factory=Slots)

    plain_one = Plain()
    plain_one.name = "x"
    settings = {"a": plain_one, "b": Attributes(c=1, d=Colour.RED), "e": Several([1, 2]), "f": Options()}
    content = read_where_unknown({"cfg": settings, "model": {}}, tmp_path / "file.pt", monkeypatch, **options)
    expected = {"a": {"name": "x"}, "b": {"c": 1, "d": "red"}, "e": [1, 2], "f": {"rate": 0.5, "slots": {"size": 3}}}
    assert content["cfg"] == expected
    assert content.unknown == tuple(
        f"mylab.{name}" for name in "Attributes Colour Options Plain Several Slots".split()
    )


@pytest.mark.parametrize(
    "name",
    [
        "__main__.Config",
        "test.Options",
        "code.Settings",
        "functools.partial",
        "torch._C._nn.gelu",
        "torch.nn.functional.gelu",
        "joblib.numpy_pickle.NumpyArrayWrapper",
        "weakref.ref",
        "builtins.slice",
        "builtins.ValueError",
        "builtins.len",
        "builtins.sorted",
        "builtins.max",
        "builtins.SystemExit",
        "io.BytesIO",
        "copyreg.__newobj_ex__",
        "platform.Thing",
    ],
)
def test_names_that_are_merely_unknown_are_no_danger(name, tmp_path):
    module, _, function = name.rpartition(".")
    content = read_checkpoint(archive(tmp_path / "file.pt", calling(module, function, 1, "x")))
    assert isinstance(content["args"], StandIn) and content["args"].source == name


def test_known_classes_are_not_reported(tmp_path):
    torch.save({"args": argparse.Namespace(path=Path("a"), number=np.float64(2))}, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt").unknown == ()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.load",
        "ctypes.CDLL",
        "builtins.__import__",
        "builtins.compile",
        "builtins.setattr",
        "builtins.open",
        "mylab.os.system",
        "pathlib.os.system",
        "pathlib._local.os.remove",
        "omegaconf.__builtins__.eval",
        "typing.sys.exit",
        "cloudpickle.cloudpickle._make_function",
        "torch.utils.cpp_extension.load",
        "webbrowser.open",
    ],
)
def test_names_that_run_programs_are_refused_wherever_they_are_taken_from(name, tmp_path):
    module, _, function = name.rpartition(".")
    with pytest.raises(UnsafeCheckpointError, match=re.escape(name)):
        read_checkpoint(archive(tmp_path / "file.pt", calling(module, function, "x")))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local", "pathlib._abc"])
@pytest.mark.parametrize(
    ("name", "parts", "path"),
    [
        ("PosixPath", ("/", "runs", "a b"), "/runs/a b"),
        ("PosixPath", ("runs", "x.pt"), "runs/x.pt"),
        ("PosixPath", (), "."),
        ("WindowsPath", ("C:\\", "runs"), "C:\\runs"),
        ("PureWindowsPath", ("runs", "x"), "runs\\x"),
    ],
)
def test_paths_of_every_python(module, name, parts, path, tmp_path):
    assert read_checkpoint(archive(tmp_path / "file.pt", calling(module, name, *parts)))["args"] == path


@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(2.5), 2.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array([1, 2], dtype=">i4"), [1, 2]),
        (np.zeros((2, 0)), [[], []]),
        (np.dtype("float32"), "float32"),
    ],
    ids=str,
)
def test_values_of_numpy(value, expected, options, tmp_path):
    torch.save({"args": argparse.Namespace(value=value)}, tmp_path / "file.pt", **options)
    found = read_checkpoint(tmp_path / "file.pt")["args"]["value"]
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        np.rec.array([(1, 2.0)], dtype=[("step", int), ("loss", float)]),
        np.array([(1, 2.0)], dtype=[("step", int), ("loss", float)]),
        np.array([(1, 2.0)], dtype=[("step", int), ("loss", float)])[0],
        np.dtype([("step", int), ("loss", float)]),
        np.array([None, {"a": 1}], dtype=object),
    ],
    ids=["recarray", "structured array", "structured scalar", "structured type", "objects"],
)
def test_arrays_that_are_no_numbers_do_not_damage_the_rest(value, tmp_path):
    torch.save({"model": {"x": torch.ones(2)}, "log": value}, tmp_path / "file.pt")
    content = read_checkpoint(tmp_path / "file.pt")
    assert content["model"]["x"].tolist() == [1, 1] and isinstance(content["log"], StandIn)


def test_special_tensors_are_refused_by_their_kind(tmp_path):
    torch.save({"model": {"weight": torch.eye(2).to_sparse()}}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="sparse tensors") as caught:
        read_checkpoint(tmp_path / "file.pt")
    assert not isinstance(caught.value, UnsafeCheckpointError)


def test_a_call_through_a_stand_in_reaches_nothing(tmp_path):
    """Allowed names are stand-ins whatever is done with them: called, built, given attributes."""
    path = tmp_path / "file.pt"
    operator = sys.modules["operator"]
    torch.save({"a": Calls(operator.getitem, {"x": 1}, "x"), "b": argparse.Namespace(c=1)}, path)
    content = read_checkpoint(path)
    assert isinstance(content["a"], StandIn) and content["a"].args == ({"x": 1}, "x") and content["b"] == {"c": 1}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_names_are_found_in_every_protocol_and_in_files_that_end_early(protocol, tmp_path):
    """A pickle alone, as `pickle.dump` writes it: not one of torch, but it is the danger that is named."""
    canary, evil = tmp_path / "canary", [["system", "posix"], Calls(os.system, f"touch {tmp_path / 'canary'}")]
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read_checkpoint(broken(tmp_path / "file.pt", pickle.dumps(evil, protocol)))
    assert not canary.exists()


def test_protocols_that_hide_names_are_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"cfg": argparse.Namespace(a=1)}, path, pickle_protocol=4)
    with pytest.raises(ValueError, match="STACK_GLOBAL"):
        read_checkpoint(path)


@pytest.mark.parametrize("order", [1, -1])
def test_a_second_pickle_in_the_archive_is_looked_at_too(order, tmp_path):
    pickles = [pickle.dumps({"model": {}}, 2), pickle.dumps({"model": Calls(os.system, "true")}, 2)]
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read_checkpoint(archive(tmp_path / "file.pt", *pickles[::order]))


def test_names_reach_the_terminal_without_control_characters(tmp_path):
    with pytest.raises(UnsafeCheckpointError, match=r"'omegaconf\.\\x1b\[2J'") as caught:
        read_checkpoint(archive(tmp_path / "file.pt", b"\x80\x02comegaconf\n\x1b[2J\n)R."))
    assert "\x1b" not in str(caught.value)


def test_lists_that_unfold_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_d2v.conversion.pickles.MAX_OBJECTS", 10_000)
    content: Any = ["more"]
    for _ in range(30):
        content = [content, content]
    torch.save({"cfg": {"model": content}}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="10,000"):
        read_checkpoint(tmp_path / "file.pt")


def test_deep_content(tmp_path):
    with pytest.raises(ValueError, match="nested"):
        read_checkpoint(
            archive(tmp_path / "file.pt", b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 5000 + b"N" + b"s" * 5000 + b".")
        )


@pytest.mark.parametrize(
    "value",
    [
        b"cnumpy.core.multiarray\nscalar\n)R",
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8\x85RX\x01\x00\x00\x00a\x86R",
        b"comegaconf.nodes\nEnumNode\n)R}(X\x06\x00\x00\x00fields}X\x04\x00\x00\x00_valcfairseq.x\nE\n)Rub",
        b"cargparse\nNamespace\n)RK\x01K\x02\x86b",
    ],
    ids=["number without value", "number of text", "member without value", "state that is none"],
)
def test_objects_that_make_no_sense(value, tmp_path):
    pickled = b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."
    with pytest.raises(ValueError, match="checkpoint"):
        read_checkpoint(archive(tmp_path / "file.pt", pickled))


def test_memory_is_not_taken_on_the_word_of_a_file(tmp_path):
    torch.save({"a": Calls(bytearray, 10**15)}, tmp_path / "file.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.bytearray"):
        read_checkpoint(tmp_path / "file.pt")


def broken(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_circles_end():
    node = StandIn()
    node.state = {"_content": {"self": node, "x": 1}}
    node.__class__ = type("DictConfig", (StandIn,), {"source": "omegaconf.dictconfig.DictConfig"})
    assert plain(node) == {"self": None, "x": 1}


def test_references_between_settings():
    settings = {"a": {"b": 3, "c": "${a.b}", "d": ["${a.b}", "${nowhere}", "x ${a.b}"]}, "e": "${a.c}"}
    resolved = resolve(settings)
    assert resolved["a"] == {"b": 3, "c": 3, "d": [3, "${nowhere}", "x ${a.b}"]}
    assert resolved["e"] == "${a.c}"
