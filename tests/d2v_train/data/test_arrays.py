"""Arrays: files of NumPy, lists and columns become (sides ..., channels); anything else is a bad sample."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import check_account, classes, files_of, opened, write_parquet, write_picture, write_text

from d2v_train.data import arrays
from d2v_train.data.arrays import array_shape, decode_array
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.report import NoUsableSample
from d2v_train.data.sources import take_inventory
from d2v_train.data.tables import AS_FOUND, ColumnNotFoundError, SourceSettings, UnclearColumnError


SERIES = np.arange(20.0).reshape(10, 2)


def write_array(path, array=SERIES, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **options)
    return path


def encoded(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i1", "<u2", ">i4", "i8", "?"])
def test_any_type_of_number_becomes_float32(tmp_path, dtype):
    array = (np.arange(12).reshape(6, 2) % 2).astype(dtype)
    found = decode_array(str(write_array(tmp_path / "a.npy", array)), AS_FOUND)
    assert found.dtype == np.float32 and found.tolist() == array.astype(float).tolist()
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((50,), {}, (50, 1)),
        ((50, 3), {}, (50, 3)),
        ((3, 50), {"channels_first": True}, (50, 3)),
        ((8, 9), {"num_dims": 2}, (8, 9, 1)),
        ((8, 9, 4), {}, (8, 9, 4)),
        ((4, 8, 9), {"channels_first": True, "num_dims": 2}, (8, 9, 4)),
        ((5, 8, 9), {"num_dims": 3, "num_channels": 1}, (5, 8, 9, 1)),
        ((5, 8, 9, 2), {"num_dims": 3, "num_channels": 2}, (5, 8, 9, 2)),
        ((2, 5, 8, 9), {"channels_first": True}, (5, 8, 9, 2)),
    ],
)
def test_layouts(shape, settings, expected):
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    settings = SourceSettings(**settings)
    found = decode_array(array, settings)
    assert found.shape == expected == array_shape(array, settings)
    if settings.channels_first:
        assert np.array_equal(found, np.moveaxis(array, 0, -1))


def test_every_form_of_a_sample_gives_the_same_array(tmp_path):
    path = write_array(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", values=SERIES)
    np.savez_compressed(tmp_path / "c.npz", values=SERIES)
    forms = [
        SERIES,
        SERIES.tolist(),
        tuple(map(tuple, SERIES)),
        str(path),
        path,
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "elsewhere.npy"},
        {"bytes": None, "path": str(path)},
        {"array": SERIES},
        str(tmp_path / "b.npz"),
        (tmp_path / "c.npz").read_bytes(),
        np.array([row for row in SERIES], dtype=object).reshape(10, 2),
        np.asfortranarray(SERIES),
    ]
    for form in forms:
        assert np.array_equal(decode_array(form, AS_FOUND), SERIES)


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (None, "missing", "neither an array"),
        ({"bytes": None, "path": None}, "missing", "neither an array"),
        ("no/such/file.npy", "missing", "No such file"),
        (b"", "empty", "0 bytes"),
        (np.zeros((0, 3)), "empty", r"\(0, 3\)"),
        (np.zeros((5, 0)), "empty", r"\(5, 0\)"),
        ([], "empty", "shape"),
        ([[1.0, 2.0], [3.0]], "wrong shape", "different lengths"),
        ([[1.0], 2.0, [3.0]], "wrong shape", "different lengths"),
        (np.float32(3.0), "wrong shape", "single number"),
        (np.zeros((2, 2, 2, 2, 2)), "wrong shape", "at most 3"),
        (np.array([1.0, np.nan, 2.0]), "non-finite", "NaN"),
        (np.array([1.0, np.inf]), "non-finite", "infinite"),
        (np.array([1e300, 1.0]), "non-finite", "too large"),
        ([1.0, None, 2.0], "non-finite", "NaN"),
        (["a", "b"], "unreadable", "not of real numbers"),
        (np.array([1 + 2j]), "unreadable", "complex128"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "unreadable", "datetime64"),
        (np.array([{}, 1], dtype=object), "unreadable", "among the numbers|not a number"),
        (encoded(SERIES)[:-20], "truncated|unreadable", "reshape|EOF|bytes|size"),
        (encoded(SERIES)[:30], "unreadable", "Error|header"),
        (b"\x93NUMPY\x09\x00 nonsense", "unreadable", "format version|Error"),
        (b"\x89PNG\r\n\x1a\n and so on", "unreadable", "a picture in PNG, not an array"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "unreadable", "a recording in WAV, not an array"),
        (b"\x89HDF\r\n\x1a\n", "unreadable", "HDF5"),
        (b"1.0,2.0\n3.0,4.0\n", "unreadable", "neither a .npy nor a .npz"),
        (b"PK\x03\x04 damaged", "unreadable", "zip"),
    ],
)
def test_what_is_not_an_array_is_a_bad_sample(value, reason, message):
    import re

    with pytest.raises(BadSample, match=message) as caught:
        decode_array(value, AS_FOUND)
    assert re.fullmatch(reason, caught.value.reason)
    assert array_shape(value, AS_FOUND) is None or reason in ("empty", "non-finite")


def test_objects_are_refused_without_running_them(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    path = write_array(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Trap()], dtype=object))
    for value in (str(path), path.read_bytes(), str(tmp_path / "b.npz")):
        with pytest.raises(BadSample, match="Python objects"):
            decode_array(value, AS_FOUND)


def test_a_file_that_ends_early_is_truncated(tmp_path):
    path = write_array(tmp_path / "a.npy")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadSample) as caught:
        decode_array(str(path), AS_FOUND)
    assert caught.value.reason == "truncated"


def test_an_archive_of_several_arrays_names_them(tmp_path):
    np.savez(tmp_path / "a.npz", left=SERIES, right=SERIES)
    with pytest.raises(BadSample, match="2 arrays .left, right."):
        decode_array(str(tmp_path / "a.npz"), AS_FOUND)


def test_a_long_array_stays_in_its_file_and_is_checked_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAPPED_FROM", 1000)
    monkeypatch.setattr(arrays, "_CHUNK", 64)
    long = np.random.default_rng(0).standard_normal((3, 5000))
    path = write_array(tmp_path / "a.npy", long)
    found = decode_array(str(path), SourceSettings(channels_first=True))
    assert isinstance(found, np.memmap) and found.dtype == np.float64 and np.array_equal(found, long.T)
    # An in-memory array of that size is converted.
    assert decode_array(long, AS_FOUND).dtype == np.float32
    long[2, 4999] = np.nan
    write_array(tmp_path / "b.npy", long)
    with pytest.raises(BadSample, match="NaN"):
        decode_array(str(tmp_path / "b.npy"), AS_FOUND)
    long[2, 4999] = 1e300
    write_array(tmp_path / "c.npy", long)
    with pytest.raises(BadSample, match="too large"):
        decode_array(str(tmp_path / "c.npy"), AS_FOUND)
    known = set(arrays._FINITE)
    decode_array(str(path), AS_FOUND)
    assert arrays._FINITE == known


def test_a_folder_of_classes_and_splits(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for name in ("walk", "run"):
            for row in range(count):
                write_array(tmp_path / split / name / f"{row}.npy")
    write_text(tmp_path / "README.md", "about")
    write_picture(tmp_path / "train" / "walk" / "plot.png")
    write_text(tmp_path / "train" / "run" / "raw.mat", "x")
    dataset = opened("arrays", tmp_path)
    assert classes(dataset) == {"run": 3, "walk": 3} and len(opened("arrays", tmp_path, "test")) == 2
    record = dataset[0]
    assert record["array"].shape == (10, 2) and record["label"] == 0
    inventory = take_inventory("arrays", str(tmp_path), AS_FOUND)
    check_account(inventory, tmp_path)
    assert inventory.samples == {"train": 6, "test": 2} and inventory.layout.startswith("arrays, one folder per class")
    reasons = {name: reason for reason, names in inventory.left_out.items() for name in names}
    assert reasons["train/walk/plot.png"] == "pictures in a source of arrays"
    assert "save each sample as .npy" in reasons["train/run/raw.mat"]


def test_metadata_names_files_labels_and_groups(tmp_path):
    for row in range(4):
        write_array(tmp_path / "data" / f"{row}.npy", SERIES + row)
    lines = [f"data/{row}.npy,{'sick' if row % 2 else 'well'},patient {row // 2}" for row in range(3)]
    write_text(tmp_path / "metadata.csv", "\n".join(["file_name,label,group", *lines]))
    dataset = opened("arrays", tmp_path)
    assert files_of(dataset) == ["data/0.npy", "data/1.npy", "data/2.npy"]
    assert classes(dataset) == {"sick": 1, "well": 2}
    assert [dataset[row]["group"] for row in range(3)] == ["patient 0", "patient 0", "patient 1"]
    inventory = take_inventory("arrays", str(tmp_path), AS_FOUND)
    assert inventory.left_out == {"it is not listed in metadata.csv": ["data/3.npy"]}


def test_a_zip_file_and_a_list_of_files(tmp_path):
    path = write_array(tmp_path / "a" / "0.npy")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "train/0.npy")
        archive.write(path, "train/1.npy")
    write_text(tmp_path / "list.txt", "a/0.npy\n")
    for source, count in ((tmp_path / "all.zip", 2), (tmp_path / "list.txt", 1), (path, 1)):
        dataset = opened("arrays", source)
        assert len(dataset) == count and np.array_equal(dataset[0]["array"], SERIES)


def test_columns_of_lists(tmp_path):
    ecg = [SERIES.tolist(), (SERIES + 1).tolist(), SERIES[:4].tolist()]
    write_parquet(tmp_path / "train.parquet", ecg=ecg, label=["a", "b", "a"], age=[1, 2, 3])
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"ecg": row, "label": name}) + "\n" for row, name in zip(ecg, "aba", strict=True))
    for name in ("train.parquet", "rows.jsonl"):
        dataset = opened("arrays", tmp_path / name)
        assert [dataset[row]["array"].shape for row in range(3)] == [(10, 2), (10, 2), (4, 2)]
        assert np.array_equal(dataset[1]["array"], SERIES + 1) and classes(dataset) == {"a": 2, "b": 1}
    streamed = opened("arrays", tmp_path / "train.parquet", stream_block=2)
    assert np.array_equal(streamed[1]["array"], SERIES + 1)


def test_columns_that_are_channels(tmp_path):
    """Of an accelerometer, each axis is often a column of its own."""
    axes = {name: [[float(place + row) for row in range(6)], [1.0] * 6] for place, name in enumerate("xyz")}
    axes["z"][1] = [1.0] * 5
    write_parquet(tmp_path / "train.parquet", **axes, label=["a", "b"])
    dataset = opened("arrays", tmp_path, column=["x", "y", "z"], on_bad="raise")
    assert dataset[0]["array"].tolist() == [[row, row + 1, row + 2] for row in range(6)]
    with pytest.raises(BadSample, match="channels of different lengths"):
        dataset[1]
    write_parquet(tmp_path / "train.parquet", up=[[1.0]], down=[[2.0]])
    with pytest.raises(UnclearColumnError, match="up, down; several names are the channels"):
        opened("arrays", tmp_path)
    with pytest.raises(ColumnNotFoundError, match="'side'"):
        opened("arrays", tmp_path, column=["up", "side"])


def test_features_of_the_datasets_library(tmp_path):
    from datasets import Array2D, Dataset, Features, Value

    features = Features({"ecg": Array2D((10, 2), "float32"), "label": Value("string")})
    dataset = Dataset.from_dict({"ecg": [SERIES, SERIES * 2], "label": ["a", "b"]}, features=features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    dataset.to_parquet(str(tmp_path / "train.parquet"))
    for source in (tmp_path / "saved", tmp_path / "train.parquet"):
        assert np.array_equal(opened("arrays", source)[1]["array"], SERIES * 2)


def test_columns_of_bytes_and_of_paths(tmp_path):
    write_array(tmp_path / "files" / "0.npy")
    pq.write_table(pa.table({"array": [encoded(SERIES)], "label": ["a"]}), tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"array_path": ["files/0.npy"], "label": ["a"]}), tmp_path / "paths.parquet")
    for name in ("bytes.parquet", "paths.parquet"):
        assert np.array_equal(opened("arrays", tmp_path / name)[0]["array"], SERIES)


def test_recordings_and_pictures_stored_as_lists_are_not_arrays(tmp_path):
    """Columns that belong to another modality by their names are read as that one."""
    write_parquet(tmp_path / "train.parquet", audio=[[0.1, 0.2]], image=[[[1, 2], [3, 4]]], labels=[[0, 1]])
    with pytest.raises(UnclearColumnError, match="audio, image, labels"):
        opened("arrays", tmp_path)
    assert opened("arrays", tmp_path, column="audio")[0]["array"].tolist() == [
        [pytest.approx(0.1)],
        [pytest.approx(0.2)],
    ]


def test_bad_arrays_are_replaced_and_counted(tmp_path):
    write_array(tmp_path / "0.npy")
    write_array(tmp_path / "1.npy", np.full((10, 2), np.nan))
    write_array(tmp_path / "2.npy", np.zeros((10, 3)))
    write_array(tmp_path / "3.npy", np.zeros((0, 2)))
    write_text(tmp_path / "4.npy", "not an array")
    write_array(tmp_path / "5.npy", SERIES + 5)
    dataset = opened("arrays", tmp_path, num_channels=2, num_dims=1)
    assert np.array_equal(dataset[1]["array"], SERIES + 5) and dataset[1]["id"] == 1
    for row in range(6):
        dataset[row]
    assert dataset.bad.counts() == {"unreadable": 1, "empty": 1, "non-finite": 1, "wrong shape": 1}
    assert len(dataset.without_bad()) == 2
    with pytest.raises(NoUsableSample, match="wrong shape: 1"):
        dataset.select([1, 2, 3, 4]).without_bad()


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((100, 6), {"num_dims": 1, "num_channels": 1}, "100, 6.*1 channels.*num_channels=6"),
        ((12, 500), {"num_dims": 1, "num_channels": 12}, "channels_first=true, or set .*num_channels=500"),
        ((500, 12), {"num_dims": 1, "num_channels": 12, "channels_first": True}, "channels_first=false"),
        ((500,), {"num_dims": 1, "num_channels": 3}, "num_channels=1"),
        ((8, 9, 3), {"num_dims": 1, "num_channels": 3}, "1 dimensions.*num_dims=2"),
        ((9, 3), {"num_dims": 3, "num_channels": 3}, "3 dimensions.*num_dims=1"),
        ((4, 8, 9, 3), {"num_dims": 2, "num_channels": 3}, "num_dims=3"),
    ],
)
def test_arrays_that_the_model_does_not_take_say_what_to_set(tmp_path, shape, settings, message):
    for row in range(3):
        write_array(tmp_path / f"{row}.npy", np.zeros(shape))
    with pytest.raises(ValueError, match=message):
        opened("arrays", tmp_path, **settings)


def test_one_fitting_array_is_enough_to_open_a_source(tmp_path):
    write_array(tmp_path / "0.npy", np.zeros((5, 7)))
    write_text(tmp_path / "1.npy", "damaged")
    write_array(tmp_path / "2.npy")
    dataset = opened("arrays", tmp_path, num_dims=1, num_channels=2)
    assert np.array_equal(dataset[0]["array"], SERIES)


@pytest.mark.parametrize(
    ("name", "value"), [("num_dims", 0), ("num_dims", 4), ("num_channels", 0), ("num_channels", -1)]
)
def test_wrong_settings(name, value):
    with pytest.raises(ValueError, match=f"Option {name} is {value}"):
        SourceSettings(**{name: value})
