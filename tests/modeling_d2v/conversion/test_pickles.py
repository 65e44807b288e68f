"""Pickles of unknown origin: read without importing or running anything."""

import argparse
import copyreg
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

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


class Plain:
    """An object of a class that no checkpoint holds."""


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
        ("torch.nn.modules.linear.Linear", lambda canary: torch.nn.Linear(2, 2)),
        ("tests.modeling_d2v.test_checkpoint_files.Plain", lambda canary: Plain()),
    ],
)
def test_files_that_ask_for_more_are_refused_and_nothing_is_run(name, make, options, tmp_path, recwarn):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    Plain.__module__ = "tests.modeling_d2v.test_checkpoint_files"
    sys.modules.setdefault(Plain.__module__, sys.modules[Calls.__module__])
    torch.save({"cfg": make(canary), "model": {"weight": torch.ones(2)}}, path, **options)
    with pytest.raises(UnsafeCheckpointError, match=name.replace(".", r"\.")) as caught:
        read_checkpoint(path)
    assert not canary.exists()
    message = str(caught.value)
    assert str(path) in message and "nothing of it was run" in message and "\n" not in message


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


def archive(path: Path, *pickles: bytes) -> Path:
    """A file in torch's format around one pickle or several."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for content in pickles:
            file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


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
