"""Checkpoint files are read whole, from every format, and nothing in them is ever run."""

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_d2v.conversion.files import read_checkpoint


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
