"""Checkpoint files are read whole, from every format, and nothing in them is ever run."""

import argparse
import copyreg
import json
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
from safetensors.torch import save_file

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


@pytest.mark.parametrize("path", PICKLES, ids=lambda path: path.stem)
def test_objects_of_the_reference_become_plain(path):
    content = read_checkpoint(path)
    settings = json.loads((FIXTURES / "reference" / "d2v2_audio_base.json").read_text())["config"]
    model = content["cfg"]["model"]
    wrapped = model.pop("wrapped_task")
    assert model == settings
    assert wrapped == content["cfg"]["task"] and wrapped["lengths"] == [1, 2] and wrapped["normalize"] is True
    assert content["cfg"]["optimization"] == {"max_update": 10, "lr": [0.00075]}
    assert content["args"] == {"arch": "data2vec_multi", "prediction_mode": "CLS_TOKEN", "betas": (0.9, 0.98)}
    assert content["task_state"]["target_dictionary"]["symbols"][3:] == ["<unk>", "|", "E", "T"]
    assert content["extra_state"] == {"loss": 0.25, "steps": [1, 2], "counts": {"a": 1}}
    assert content["optimizer_history"][0]["num_updates"] == 7
    assert torch.equal(content["model"]["weight"], torch.arange(6.0).view(2, 3))
    assert content["model"]["half"].dtype == torch.float16


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


def test_encrypted_archives(good):
    content = bytearray(good.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(mark) + offset] |= 1
    with pytest.raises(ValueError, match="checkpoint"):
        read_checkpoint(broken(good, bytes(content)))


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.pt"
    torch.save({"model": {"weight": torch.ones(200)}}, path)
    return path


def broken(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02garbage", "safetensors"),
        (b"<!DOCTYPE html><html>403</html>", "page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"\x80\x02garbage", "objects"),
        (pickle.dumps({"model": 1}, protocol=2), "objects"),
        (b"PK\x03\x04garbage", "damaged"),
        (bytes(257) + b"ustar" + bytes(300), "archive"),
    ],
)
def test_files_that_are_no_checkpoints(content, message, tmp_path):
    path = broken(tmp_path / "file.pt", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert str(len(content)) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
def test_truncated_files(share, options, tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"model": {"weight": torch.ones(2000)}}, path, **options)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint"):
        read_checkpoint(broken(path, whole[: int(len(whole) * share)]))


def test_archives_of_another_kind(good, tmp_path):
    other = tmp_path / "other.pt"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="`torch.save`"):
        read_checkpoint(other)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.namelist():
            archive.writestr(entry, source.read(entry))
    with pytest.raises(ValueError, match="packed"):
        read_checkpoint(other)
    torch.jit.save(torch.jit.script(torch.nn.Identity()), other)
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(other)
    torch.save([1, 2], other)
    with pytest.raises(ValueError, match="list"):
        read_checkpoint(other)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match="folder"):
        read_checkpoint(tmp_path)


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    assert torch.equal(read_checkpoint(path)["model"]["weight"], torch.ones(2))
    with pytest.raises(ValueError, match="safetensors"):
        read_checkpoint(broken(path, path.read_bytes()[:-1]))


@pytest.mark.parametrize("pattern", ["model-part-{}.pt", "checkpoint_last-shard{}.pt", "x-0000{}-of-00003.pt"])
def test_parts_are_put_together(pattern, tmp_path):
    first = 1 if "-of-" in pattern else 0
    paths = [tmp_path / pattern.format(first + i) for i in range(3)]
    for i, path in enumerate(paths):
        content = {
            "model": {f"w{i}": torch.full((2,), i), "_ema": {f"w{i}": torch.ones(1)}},
            "cfg": {"model": {"a": 1}},
        }
        torch.save(content, path)
    whole = read_checkpoint(paths[1])
    assert sorted(whole["model"]) == ["_ema", "w0", "w1", "w2"] and sorted(whole["model"]["_ema"]) == [
        "w0",
        "w1",
        "w2",
    ]
    assert whole["cfg"]["model"] == {"a": 1}
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"\[{first + 1}\]"):
        read_checkpoint(paths[2])


def test_parts_that_are_slices_are_not_joined(tmp_path):
    for i in range(2):
        torch.save({"model": {"weight": torch.full((2,), i)}}, tmp_path / f"model-shard{i}.pt")
    with pytest.raises(ValueError, match="slices"):
        read_checkpoint(tmp_path / "model-shard0.pt")
    torch.save({"model": {"flat": torch.ones(2)}, "shard_metadata": {}}, tmp_path / "model-shard0.pt")
    with pytest.raises(ValueError, match="consolidate_fsdp_shards"):
        read_checkpoint(tmp_path / "model-shard1.pt")


def test_tensors_of_the_zip_format_are_mapped(good):
    storage = read_checkpoint(good)["model"]["weight"].untyped_storage()
    assert storage.nbytes() == 800
    # A private mapping: writing to it does not reach the file.
    read_checkpoint(good)["model"]["weight"].zero_()
    assert read_checkpoint(good)["model"]["weight"].all()


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
