import fsspec
import numpy as np
import pytest
from table_data import png

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.cells import ArrayCells, MediaCells


@pytest.mark.parametrize("folder", ["[2024]", "a*b? c", "100% ä:", "~"])
def test_paths_start_at_the_folder_of_the_table_and_are_literal(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    (place / "x.png").write_bytes(b"x")
    cells = MediaCells(is_audio=False)
    assert cells(["x.png"], str(place)) == str(place / "x.png")
    assert cells([{"bytes": None, "path": "x.png"}], str(place)) == str(place / "x.png")
    assert cells([str(place / "x.png")], "elsewhere") == str(place / "x.png")


def test_a_path_may_start_at_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert MediaCells(False)(["x.png"], "/nowhere") == "x.png"
    assert MediaCells(False)(["y.png"], "/nowhere") == "/nowhere/y.png", "the path that a report names"


def test_files_on_a_server_are_read():
    fsspec.filesystem("memory").pipe_file("/cells/x.png", png())
    assert MediaCells(False)(["x.png"], "memory://cells")["bytes"] == png()
    assert MediaCells(False)(["memory://cells/x.png"], "/here")["bytes"] == png()
    with pytest.raises(BadSample, match="missing: memory://cells/y.png"):
        MediaCells(False)(["y.png"], "memory://cells")


def test_arrays_of_samples_take_their_rate_from_the_row_or_the_option():
    samples = np.zeros(3)
    assert MediaCells(True, 8000)([samples], "")["sampling_rate"] == 8000
    assert MediaCells(True, 8000, has_rate=True)([samples, 44100.0], "")["sampling_rate"] == 44100
    assert MediaCells(True, 8000, has_rate=True)([samples, None], "")["sampling_rate"] == 8000
    assert MediaCells(True, 8000)([{"array": samples, "sampling_rate": 22050}], "")["sampling_rate"] == 22050
    with pytest.raises(BadSample, match="sampling_rate"):
        MediaCells(True)([samples], "")
    with pytest.raises(BadSample, match="'fast'"):
        MediaCells(True, has_rate=True)([samples, "fast"], "")


def test_the_first_cell_that_is_not_null_counts_and_bytes_stay_as_they_are():
    encoded = {"bytes": png(), "path": "0.png"}
    assert MediaCells(False)([None, encoded], "/x") is encoded
    assert MediaCells(False)([None, None], "/x") is None and MediaCells(False)([" "], "/x") is None
    assert MediaCells(False)([b"abc"], "/x") == b"abc"


def test_cells_that_are_channels_are_stacked():
    channels = ArrayCells(are_channels=True)
    assert channels([[1, 2, 3], np.array([4.0, 5.0, 6.0])], "").tolist() == [[1, 4], [2, 5], [3, 6]]
    with pytest.raises(BadSample, match="1 of 2 channels"):
        channels([[1, 2], None], "")
    for cells in ([[1, 2], [1]], [[1, 2], [[1], [2]]], [[], [1]]):
        with pytest.raises(BadSample, match="channels of different lengths") as caught:
            channels(cells, "")
        assert caught.value.reason == "wrong shape"


def test_the_first_cell_of_an_array_that_is_not_null_counts(tmp_path):
    cells = ArrayCells(are_channels=False)
    assert cells([None, [1, 2]], "") == [1, 2]
    assert cells(["x.npy"], str(tmp_path)) == str(tmp_path / "x.npy")
    assert cells([{"bytes": b"x", "path": "x.npy"}], "")["bytes"] == b"x"
    assert cells([None], "") is None
