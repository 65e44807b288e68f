"""Checkpoint files are read whole, from every format, and nothing in them is ever run."""

import argparse
import gzip
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modeling_d2v.conversion.files import read_checkpoint
from modeling_d2v.conversion.pickles import UnsafeCheckpointError


FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PICKLES = sorted((FIXTURES / "pickles").glob("*.pt"))
ZIP, LEGACY = {}, {"_use_new_zipfile_serialization": False}


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


def archive(path: Path, *pickles: bytes) -> Path:
    """A file in torch's format around one pickle or several."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for content in pickles:
            file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


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


def tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"\x80\x02N."))
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: tar(path, "sys_info", "storages", "tensors", "pickle"), r"tar format of torch before 0\.1\.10"),
        (lambda path: tar(path, "base_libri.pt", "dict.txt"), r"tar archive \(base_libri\.pt, dict\.txt\); unpack"),
        (lambda path: path.write_text('{"model": {"type": "BPE"}, "added_tokens": []}'), "tokenizer, not a model"),
        (
            lambda path: path.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
            "index of several",
        ),
        (lambda path: path.write_text('{"hidden_size": 768}'), "JSON file"),
        (lambda path: path.write_text("{not json"), "text file"),
        (lambda path: path.write_bytes(b"\n\x0e\n\x05<unk>\x15"), "tokenizer of sentencepiece"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        (lambda path: path.write_bytes(b"GGUF\x03"), "GGUF"),
        (lambda path: path.write_bytes(gzip.compress(b"x")), "gzip; unpack"),
        (lambda path: np.savez(open(path, "wb"), a=np.ones(2)), r"\.npz"),
        (lambda path: np.save(open(path, "wb"), np.ones(2)), "array of numpy"),
        (lambda path: save_file({"weight": torch.ones(2)}, path), r"rename it to end in \.safetensors"),
        (lambda path: zipped(path, "models/base_libri.pt"), "zip archive with models/base_libri.pt; unpack"),
        (lambda path: torch.save(torch.ones(2), path), "Tensor"),
    ],
)
def test_other_files_are_named_by_what_they_are(write, message, tmp_path):
    path = tmp_path / "file.pt"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert not isinstance(caught.value, UnsafeCheckpointError) and "\n" not in str(caught.value)


def zipped(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")


def test_whole_objects(tmp_path):
    """A pickled model is read as the dictionaries that its modules are; another object is refused by its class."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    torch.save(model, tmp_path / "legacy.pt", **LEGACY)
    with pytest.raises(ValueError, match="pickled as an object.*state_dict"):
        read_checkpoint(tmp_path / "legacy.pt")
    torch.save(model, tmp_path / "model.pt")
    content = read_checkpoint(tmp_path / "model.pt")
    assert torch.equal(content["model"]["_modules"]["0"]["_parameters"]["weight"], model[0].weight)
    assert "torch.nn.modules.linear.Linear" in content.unknown
    torch.save(argparse.Namespace(a=1), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"object of the class argparse\.Namespace"):
        read_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("options", [ZIP, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_every_type_of_number(dtype, options, tmp_path):
    tensor = torch.arange(4).to(dtype).requires_grad_()
    torch.save(
        {"model": {"a": tensor, "b": torch.nn.Parameter(tensor.detach())}, "kind": dtype}, tmp_path / "x.pt", **options
    )
    content = read_checkpoint(tmp_path / "x.pt")
    assert torch.equal(content["model"]["a"], tensor) and content["model"]["b"].dtype == content["kind"] == dtype


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
