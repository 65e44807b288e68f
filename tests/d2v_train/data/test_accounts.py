"""The account of a source: every file is used, or left out with the reason."""

import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media_files import check_account, opened, write_parquet, write_picture
from PIL import Image

from d2v_train.data.accounts import account, completed, is_sample_file, reason_against, suffix_of, suffixes_of
from d2v_train.data.file_formats import UNREADABLE_SUFFIXES
from d2v_train.data.inventory import Inventory
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.listing import FolderListing
from d2v_train.data.tables import SplitNotFoundError
from d2v_train.support.extras import MissingDependencyError


def test_suffixes():
    assert [suffix_of(name) for name in ("a/b.PNG", "a.b/c", ".x", "a.tar.gz", "a.", "a/.png")] == [
        ".png", "", "", ".gz", ".", ""
    ]  # fmt: skip
    assert is_sample_file("a.txt.gz", "text") and not is_sample_file("a.png.gz", "vision")


@pytest.mark.parametrize(
    "name, modality, reason",
    [
        ("a.m4a", "audio", "ffmpeg"),
        ("a.heic", "vision", "convert"),
        ("a.png", "audio", "pictures in a source of recordings"),
        ("a.flac", "text", "recordings in a source of texts"),
        ("sub/README.txt", "vision", "it describes the data"),
        ("LICENSE", "audio", "it describes the data"),
        ("a.parquet", "vision", "a table beside pictures"),
        ("a.tar.gz", "vision", "an archive"),
        ("a.TextGrid", "audio", "it describes the data"),
        ("a.foo", "vision", "the suffix .foo is unknown"),
        ("a", "vision", "it has no suffix"),
        ("a.PNG", "vision", "pictures beside a table of columns, which are read where it names them"),
        ("a/b.flac", "audio", "recordings beside a table of columns, which are read where it names them"),
        ("train/dataset_info.json", "text", "it describes the data"),
        ("dataset_dict.json", "vision", "it describes the data"),
        ("train/state.json", "audio", "it describes the data"),
        ("statement.json", "audio", "a table beside recordings"),
    ],
)
def test_reasons(name, modality, reason):
    assert reason in reason_against(name, modality)


def test_pictures_are_read_where_libsndfile_is_not_installed(tmp_path, monkeypatch):
    def missing():
        raise MissingDependencyError("soundfile")

    monkeypatch.setitem(RECORD_KINDS, "audio", replace(RECORD_KINDS["audio"], find_suffixes=missing))
    write_picture(tmp_path / "a.png")
    for name in ("b.wav", "c.m4a"):
        (tmp_path / name).touch()
    inventory = opened("vision", tmp_path).inventory
    assert inventory.used == ["a.png"] and "the suffix .wav is unknown" in inventory.left_out and inventory.files == 3


def test_an_opener_that_names_only_what_it_used_is_completed(tmp_path):
    for name in ("a.parquet", "b.parquet", "c.csv", "README.md"):
        (tmp_path / name).touch()
    given = Inventory(
        "source", "tables", {"train": 3}, [str(tmp_path / "a.parquet")], {"broken": ["b.parquet"]}, ["note"]
    )
    given.leave_out("c.csv", "not parquet")
    found = completed(given, "vision", FolderListing(tmp_path))
    assert found.used == ["a.parquet"] and found.left_out["broken"] == ["b.parquet"] and found.notes == ["note"]
    assert found.left_out["it describes the data"] == ["README.md"] and found.files == 4 and len(found.left_out) == 3
    found = account("s", "l", "vision", FolderListing(tmp_path), ["c.csv", "absent"], {}, {"a.parquet": "why"})
    assert found.used == ["c.csv"] and found.left_out["why"] == ["a.parquet"] and found.files == 4


def write_many(root: Path, count: int = 2000) -> None:
    """Mixed files: all suffixes, nested, linked, broken, renamed, hidden, beside tables and documents."""
    draw = random.Random(0)
    seed = root.parent / "seed"
    seed.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(seed / "picture.png")
    soundfile.write(seed / "recording.wav", np.zeros(160), 16_000)
    (seed / "text.txt").write_text("Some words.\n\nMore words.\n")
    write_parquet(seed / "table.parquet", x=[1])
    whole = {name: path.read_bytes() for name, path in ((path.stem, path) for path in seed.iterdir())}
    suffixes = [suffix for kind in RECORD_KINDS for suffix in suffixes_of(kind)]
    suffixes += [*UNREADABLE_SUFFIXES, ".csv", ".parquet", ".json", ".zip", ".md", ".xyz", "", ".PNG", ".Wav", ".TXT"]
    folders = [
        "",
        "cat",
        "dog/small",
        "train",
        "[2024]",
        "set?",
        "a b",
        "50%",
        "grün",
        "a:b",
        ".hidden",
        "deep/er/est",
    ]
    contents = [*whole.values(), b"", b"broken", whole["picture"][:40], whole["recording"][:50]]
    for number in range(count):
        folder = root / folders[number % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        name = draw.choice(["{n}", "file {n}", ".{n}", "README{n}", "test_{n}", "*{n}", "x.y.{n}", "{n}é"]).format(
            n=number
        )
        path = folder / f"{name}{suffixes[number % len(suffixes)]}"
        how = number % 23
        if how == 0:
            path.symlink_to(seed / "picture.png")
        elif how == 1:
            path.symlink_to(root / "nowhere")
        elif how == 2:
            (root / os.fsdecode(b"caf\xe9%d.png" % number)).write_bytes(whole["picture"])
        else:
            path.write_bytes(draw.choice(contents))
    (root / "linked").symlink_to(seed)
    (root / "cat" / "loop").symlink_to(root)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many") / "source"
    started = time.perf_counter()
    write_many(root)
    assert time.perf_counter() - started < 5
    return root


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_every_file_of_a_mixed_folder_is_accounted_for(many, modality):
    data = opened(modality, many, read_labels=False)
    inventory = data.inventory
    check_account(inventory, many)
    # By another way than the reader: links followed, but no folder inside itself.
    visible = set()
    for folder, folders, files in os.walk(many, followlinks=True):
        relative = os.path.relpath(folder, many)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "loop"]
        visible.update(os.path.normpath(os.path.join(relative, name)) for name in files if not name.startswith("."))
    named = {*inventory.used, *(name for names in inventory.left_out.values() for name in names)}
    assert named == visible | {"cat/loop"} and inventory.files == len(named) > 1500
    assert inventory.samples["train"] == len(data) if modality != "text" else len(data) > 0
    if modality != "text":
        assert len(inventory.used) == sum(inventory.samples.values())
        expected = {name for name in visible if is_sample_file(name, modality) and os.path.exists(many / name)}
        assert set(inventory.used) == expected
    assert all(reason for reason in inventory.left_out) and all(map(str.isprintable, inventory.lines()))


def test_the_account_is_the_same_for_every_split(tmp_path):
    for split in ("train", "test"):
        for number in range(3):
            (tmp_path / split).mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / f"{number}.png")
    (tmp_path / "notes.txt").touch()
    one, other, both = (opened("vision", tmp_path, split).inventory for split in ("train", "test", "train+test"))
    assert one.lines() == other.lines() == both.lines() and one.samples == {"test": 3, "train": 3}
    with pytest.raises(SplitNotFoundError):
        opened("vision", tmp_path, "other")


def test_text_streamed_and_in_memory_and_tables_account_for_all_files(tmp_path):
    for name in ("train.txt", "test.txt", "picture.png", "README.md", "x.zip"):
        (tmp_path / name).write_text("words")
    for block in (None, 8):
        data = opened("text", tmp_path, stream_block=block)
        check_account(data.inventory, tmp_path)
        assert data.inventory.used == ["test.txt", "train.txt"] and set(data.inventory.samples) == {"train", "test"}
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for name in ("train-0.parquet", "test-0.parquet"):
        write_parquet(tmp_path / name, text=["a", "b"])
    (tmp_path / "notes.md").touch()
    for block in (None, 8):
        data = opened("text", tmp_path, stream_block=block)
        check_account(data.inventory, tmp_path)
        assert data.inventory.used == ["test-0.parquet", "train-0.parquet"]
        assert data.inventory.samples == {"train": 2, "test": None}
