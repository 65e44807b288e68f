"""The manifest tells a whole checkpoint from a torn one, and says what is wrong with that."""

import json
import zlib

import pytest

from d2v_train.support.manifest import MANIFEST, checksum, damage_of, write_manifest


NEEDED = ("model.safetensors", "optimizer.pt", "progress.json")


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step_00000012"
    folder.mkdir()
    for number, name in enumerate((*NEEDED, "process_0.pt")):
        (folder / name).write_bytes(bytes([number]) * 1000)
    write_manifest(folder, 12)
    return folder


def test_a_whole_checkpoint_lacks_nothing(checkpoint):
    assert damage_of(checkpoint, NEEDED, 12) is None and damage_of(checkpoint, NEEDED, 12, content=True) is None
    assert damage_of(checkpoint) is None, "any step"


def test_the_manifest_lists_every_other_file(checkpoint):
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert files.keys() == {path.name for path in checkpoint.iterdir()} - {MANIFEST}


@pytest.mark.parametrize("name", [*NEEDED, "process_0.pt"])
def test_a_file_that_is_gone_short_or_changed_is_named(checkpoint, name):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert damage_of(checkpoint, NEEDED, 12) == f"{name} has 999 bytes instead of 1000"
    path.write_bytes(content[:-1] + b"\xff")
    assert damage_of(checkpoint, NEEDED, 12) is None
    assert damage_of(checkpoint, NEEDED, 12, content=True) == f"{name} has other content than was written"
    path.unlink()
    assert damage_of(checkpoint, NEEDED, 12) == f"{name} is missing"


def broken(change):
    """A manifest after `change`, which gets its content."""

    def write(path):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content)))

    return write


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "no readable manifest"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "no readable manifest"),
        (broken(lambda content: [content]), "no readable manifest"),
        (broken(lambda content: content | {"files": {"model.safetensors": 3}}), "no readable manifest"),
        (broken(lambda content: content | {"step": 13}), "of step 13"),
        (broken(lambda content: content | {"files": {}}), "does not list model.safetensors"),
    ],
)
def test_a_damaged_manifest_is_said(checkpoint, damage, message):
    damage(checkpoint / MANIFEST)
    assert message in damage_of(checkpoint, NEEDED, 12)


def test_only_the_given_files_are_listed(checkpoint):
    write_manifest(checkpoint, 3, [checkpoint / "model.safetensors"])
    (checkpoint / "optimizer.pt").unlink()
    assert damage_of(checkpoint, ["model.safetensors"], content=True) is None


def test_checksums_are_those_of_zlib(tmp_path):
    content = bytes(range(256)) * 5000  # more than a block
    (tmp_path / "file").write_bytes(content)
    assert checksum(tmp_path / "file") == f"{zlib.crc32(content):08x}"
