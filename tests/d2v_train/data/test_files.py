import fsspec
import pyarrow
import pytest

from d2v_train.data.files import is_damage, is_url, list_url, open_file, problem_of, stamp_of, stamps_of


@pytest.mark.parametrize("path", ["s3://a/b", "hf://datasets/a", "https://x/y.csv", "memory://a"])
def test_urls_are_told_from_paths(path):
    assert is_url(path) and not any(map(is_url, ("/a/b", "C:/a", "a:b", "./a://b", "user/name:config")))


@pytest.mark.parametrize("name", ["[2024].csv", "a*b?.csv", "100%.csv", "ä: ~.csv", "a::b.csv"])
def test_local_paths_are_literal(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    with open_file(str(tmp_path / name)) as file:
        assert file.read() == b"content"


def test_files_below_a_url_are_listed_without_hidden_ones():
    memory = fsspec.filesystem("memory")
    for name in ("b.csv", "inner/a.csv", ".hidden/c.csv"):
        memory.pipe_file(f"/files_below/{name}", b"x")
    assert [name for _, name in list_url("memory://files_below")] == ["b.csv", "inner/a.csv"]
    assert list_url("memory://files_below/b.csv") == [("memory://files_below/b.csv", "")]
    with open_file(list_url("memory://files_below/")[0][0]) as file:
        assert file.read() == b"x"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_url("memory://nowhere")


def test_stamps_change_with_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    before = stamp_of(path)
    assert stamp_of(path) == before
    path.write_bytes(b"longer")
    assert stamp_of(path) != before and stamps_of([path]) == stamp_of(path)
    assert stamps_of([path, tmp_path / "missing"]) is None
    fsspec.filesystem("memory").pipe_file("/stamped", b"x")
    before = stamp_of("memory://stamped")
    fsspec.filesystem("memory").pipe_file("/stamped", b"longer")
    assert stamp_of("memory://stamped") != before


def test_a_server_that_fails_is_not_a_damaged_file():
    url = "https://example.org/a.parquet"
    assert not is_damage(ConnectionError("no network"), url) and not is_damage(FileNotFoundError(url), url)
    assert is_damage(pyarrow.ArrowInvalid("torn"), url) and is_damage(OSError("Couldn't deserialize thrift"), url)
    assert is_damage(PermissionError(13, "no"), "/a.parquet")
    assert str(problem_of("a.csv", "too long", "line 3")) == "unreadable: a.csv, line 3: too long"
