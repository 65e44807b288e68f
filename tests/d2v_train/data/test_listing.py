"""Files of a source in a folder, a zip file, or behind a URL."""

import os
import pickle
import shutil
import zipfile

import fsspec
import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.listing import FolderListing, UrlListing, ZipListing, decoded_text, visible_files


@pytest.fixture
def folder(tmp_path):
    """Files with awkward names, in the order in which they are listed."""
    names = ["B/1.png", "[2024]/set?/*.png", "a/b.png", "a b/50%.png", "a:b/c.png", "grün/ü.png", "~/x.png"]
    for name in [*names, ".hidden/d.png", "a/.e.png"]:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "source", names


def test_a_folder_lists_literal_names_in_the_order_of_paths(folder):
    root, names = folder
    listing = FolderListing(root)
    assert listing.names == names == [path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))
                                      if path.is_file() and "/." not in f"/{path.relative_to(root)}"]  # fmt: skip
    assert listing.hidden == 2 and listing.left_out == listing.notes == []
    assert [listing.read(name) for name in names] == [name.encode() for name in names]
    assert listing.value("a/b.png") == str(root / "a" / "b.png")


def test_names_that_are_not_text_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"x")
    listing = FolderListing(tmp_path)
    assert listing.names == [name] and listing.read(name) == b"x"


def test_links(tmp_path):
    root = tmp_path / "source"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "1.png").touch()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "2.png").touch()
    (root / "dog").symlink_to(tmp_path / "else")
    (root / "file.png").symlink_to(tmp_path / "else" / "2.png")
    (root / "cat" / "up").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nothing")
    (root / "self").symlink_to("self")
    (root / "twin").symlink_to("cat")
    os.mkfifo(root / "pipe")
    listing = FolderListing(root)
    assert listing.names == ["cat/1.png", "dog/2.png", "file.png", "twin/1.png"]
    reasons = dict(listing.left_out)
    assert reasons["gone"] == "a broken link" and reasons["cat/up"] == "a link to a folder that contains it"
    assert reasons["pipe"] == "neither a file nor a folder" and set(reasons) == {
        "cat/up",
        "gone",
        "pipe",
        "self",
        "twin/up",
    }
    assert listing.notes == ["linked folders (twin) show files of the source a second time: 1"]


def test_two_folders_that_link_to_each_other_end(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / f"{one}.png").touch()
        (tmp_path / one / "to").symlink_to(tmp_path / other)
    assert FolderListing(tmp_path).names == ["a/a.png", "a/to/b.png", "b/b.png", "b/to/a.png"]


def test_folders_that_all_link_to_one_another_are_listed_once_for_each_link(tmp_path):
    """Every way through seven such folders would be 13,699 files."""
    names = "abcdefg"
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        for other in names.replace(name, ""):
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    listing = FolderListing(tmp_path)
    assert len(listing.names) == 7 + 7 * 6 and len(listing.notes) == 1
    assert {reason for _, reason in listing.left_out} == {
        "a link to a folder that contains it",
        "a link to a folder of the source, in a linked folder of the source",
    }


def test_absolute_paths_become_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for root in (tmp_path / "real", tmp_path / "link"):
        listing = FolderListing(root)
        assert listing.relative(f"{tmp_path}/real/a//b.png") == "a/b.png"
        assert listing.relative("/elsewhere/b.png") == "/elsewhere/b.png"
    assert FolderListing(tmp_path / "real").relative(f"{tmp_path}/really/a") == f"{tmp_path}/really/a"


def test_identity_changes_with_the_files(folder):
    listing = FolderListing(folder[0])
    before = listing.identity(listing.names)
    assert before == listing.identity(listing.names)
    (folder[0] / "a" / "b.png").write_bytes(b"another size")
    assert listing.identity(listing.names) != before and listing.identity(["absent"]) is None


def test_a_zip_file_lists_the_same(folder, tmp_path):
    root, names = folder
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", root)
    listing = ZipListing(archive)
    assert listing.names == names and listing.hidden >= 2
    assert listing.value("a/b.png") == {"bytes": b"a/b.png", "path": "a/b.png"}
    copy = pickle.loads(pickle.dumps(listing))
    assert copy.read("~/x.png") == b"~/x.png" and copy.identity(["a"]) == listing.identity(["a"])
    with pytest.raises(BadSample, match="absent"):
        listing.value("absent")
    child = os.fork()
    if child == 0:  # the open file must not be shared
        os._exit(0 if listing.read("B/1.png") == b"B/1.png" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_names_in_zip_files_of_other_systems(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ü.png", b"1")
        archive.writestr("__MACOSX/._a.png", b"2")
        archive.writestr("cat\\b.png", b"3")
    raw = (tmp_path / "a.zip").read_bytes().replace(b"cat/b.png", b"cat\\b.png")
    raw = raw.replace(b"\x00\x08\x00\x00", b"\x00\x00\x00\x00")  # without the flag of UTF-8
    (tmp_path / "a.zip").write_bytes(raw)
    listing = ZipListing(tmp_path / "a.zip")
    assert (
        listing.names == ["cat/b.png", "ü.png"] and listing.read("ü.png") == b"1" and listing.read("cat/b.png") == b"3"
    )
    (tmp_path / "b.zip").write_bytes(raw[:40])
    with pytest.raises(ValueError, match="b.zip.*incomplete"):
        ZipListing(tmp_path / "b.zip")


def test_a_url_lists_the_same(folder):
    root, names = folder
    system = fsspec.filesystem("memory")
    for name in names:
        system.pipe_file(f"/corpus/{name}", name.encode())
    listing = UrlListing("memory://corpus")
    assert listing.names == names and listing.is_remote
    assert listing.value("[2024]/set?/*.png")["bytes"] == b"[2024]/set?/*.png"
    assert listing.relative(listing.path("a/b.png")) == "a/b.png"
    assert UrlListing("memory://corpus/a/b.png").names == ["b.png"]
    assert pickle.loads(pickle.dumps(listing)).read("a/b.png") == b"a/b.png"
    with pytest.raises(BadSample, match="gone"):
        listing.value("gone")
    with pytest.raises(FileNotFoundError, match="memory://empty"):
        UrlListing("memory://empty")
    with pytest.raises(ValueError, match="nowhere://a"):
        UrlListing("nowhere://a")


def test_an_encoding_error_names_file_line_and_option():
    assert decoded_text(b"\xef\xbb\xbfa", "utf-8", "f") == "a" and decoded_text(b"\xe9", "latin-1", "f") == "é"
    assert decoded_text("ü".encode("utf-16"), "utf-16", "f") == decoded_text("ü".encode("utf-16"), "utf-8", "f") == "ü"
    with pytest.raises(ValueError, match="Line 2 of f is not UTF-8.*`encoding`.*latin-1"):
        decoded_text(b"a\nb\xe9", "utf-8", "f")


def test_visible_files_follow_links_and_leave_out_hidden_ones(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    source = tmp_path / "source"
    (source / ".hidden").mkdir(parents=True)
    (source / ".hidden" / "b.png").touch()
    (source / "c.png").touch()
    (source / "linked").symlink_to(tmp_path / "real")
    (source / "d.png").symlink_to(tmp_path / "real" / "a.png")
    assert [path.relative_to(source).as_posix() for path in visible_files(source)] == [
        "c.png",
        "d.png",
        "linked/a.png",
    ]
