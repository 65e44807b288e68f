"""The manifest tells a whole checkpoint from a torn one, and says what is wrong with that."""

import json
import zlib

import pytest

from d2v_train.runs.manifest import MANIFEST, NEEDED, checksum, step_of, what_is_missing, write_manifest


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step_00000012"
    folder.mkdir()
    for number, name in enumerate((*NEEDED, "process_0.pt")):
        (folder / name).write_bytes(bytes([number]) * 1000)
    write_manifest(folder, 12)
    return folder


def test_a_whole_checkpoint_lacks_nothing(checkpoint):
    assert what_is_missing(checkpoint) is None and what_is_missing(checkpoint, content=True) is None
    copy = checkpoint.rename(checkpoint.parent / "best")
    assert what_is_missing(copy) is None, "a folder of another name may hold any step"


def test_the_manifest_lists_every_other_file(checkpoint):
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert files.keys() == {path.name for path in checkpoint.iterdir()} - {MANIFEST}


@pytest.mark.parametrize("name", [*NEEDED, "process_0.pt"])
def test_a_file_that_is_gone_short_or_changed_is_named(checkpoint, name):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert what_is_missing(checkpoint) == f"{name} has 999 bytes instead of 1000"
    path.write_bytes(content[:-1] + b"\xff")
    assert what_is_missing(checkpoint) is None
    assert what_is_missing(checkpoint, content=True) == f"{name} has other content than was written"
    path.unlink()
    assert what_is_missing(checkpoint) == f"{name} is missing"


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
    assert message in what_is_missing(checkpoint)


def test_steps_are_read_from_names_and_checksums_are_those_of_zlib(tmp_path):
    names = {"step_00000012": 12, "step_x": None, "step_": None, "final": None, "step_-1": None}
    assert {name: step_of(tmp_path / name) for name in names} == names
    content = bytes(range(256)) * 5000  # more than a block
    (tmp_path / "file").write_bytes(content)
    assert checksum(tmp_path / "file") == f"{zlib.crc32(content):08x}"
