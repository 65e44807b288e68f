"""Checkpoint files are read whole, from every format, and nothing in them is ever run."""

import argparse
import copyreg
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_d2v.checkpoint_files import read_checkpoint
from modeling_d2v.checkpoint_pickles import StandIn, UnsafeCheckpointError, plain, resolve


FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
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
        "import sys, torch; from modeling_d2v.checkpoint_files import read_checkpoint\n"
        "before, known = set(sys.modules), torch.serialization.get_safe_globals()\n"
        f"read_checkpoint({str(PICKLES[0])!r})\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'omegaconf', 'fairseq', 'examples', 'hydra'}, new\n"
        "assert set(torch.serialization.get_safe_globals()) == set(known)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FIXTURES.parents[1])


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


def test_protocols_that_hide_names_are_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"cfg": Calls(os.system, "true")}, path, pickle_protocol=4)
    with pytest.raises(ValueError, match="uses STACK_GLOBAL"):
        read_checkpoint(path)


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
        (b"", "it is empty"),
        (b"\x00\x01\x02garbage", "which neither torch nor safetensors write"),
        (b"<!DOCTYPE html><html>403</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of git-lfs"),
        (b"\x80\x02garbage", "its list of objects cannot be read"),
        (pickle.dumps({"model": 1}, protocol=2), "its list of objects cannot be read"),
        (b"PK\x03\x04garbage", "its end is missing or damaged"),
        (bytes(257) + b"ustar" + bytes(300), "it is a tar archive"),
    ],
)
def test_files_that_are_no_checkpoints(content, message, tmp_path):
    path = broken(tmp_path / "file.pt", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert f"{len(content)} bytes" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
def test_truncated_files(share, options, tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"model": {"weight": torch.ones(2000)}}, path, **options)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(broken(path, whole[: int(len(whole) * share)]))


def test_archives_of_another_kind(good, tmp_path):
    other = tmp_path / "other.pt"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="not one that `torch.save` wrote"):
        read_checkpoint(other)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.namelist():
            archive.writestr(entry, source.read(entry))
    with pytest.raises(ValueError, match="packed again with compression"):
        read_checkpoint(other)
    torch.jit.save(torch.jit.script(torch.nn.Identity()), other)
    with pytest.raises(ValueError, match="TorchScript program"):
        read_checkpoint(other)
    torch.save([1, 2], other)
    with pytest.raises(ValueError, match="holds a list instead of a dictionary"):
        read_checkpoint(other)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint file .*nothing.pt"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match="It is a folder"):
        read_checkpoint(tmp_path)


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    assert torch.equal(read_checkpoint(path)["model"]["weight"], torch.ones(2))
    with pytest.raises(ValueError, match="no whole safetensors file"):
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
    with pytest.raises(FileNotFoundError, match=rf"lacks the ones numbered \[{first + 1}\]"):
        read_checkpoint(paths[2])


def test_parts_that_are_slices_are_not_joined(tmp_path):
    for i in range(2):
        torch.save({"model": {"weight": torch.full((2,), i)}}, tmp_path / f"model-shard{i}.pt")
    with pytest.raises(ValueError, match="these parts hold slices of the same tensors"):
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
