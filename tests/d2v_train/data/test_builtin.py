"""The built-in data: sizes, splits that share nothing, and that it is what it says."""

import csv
import hashlib

import numpy as np
import pytest

from d2v_train.data import builtin
from d2v_train.data.records import open_dataset


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_records_of_both_splits(modality):
    for split in ("train", "test"):
        data = open_dataset(modality, None, split)
        record = data[len(data) // 2]
        assert set(record) == {"id", {"vision": "image"}.get(modality, modality), "label", "group", "origin"}
        assert 0 <= record["label"] < len(data.label_names)
        assert data.bad.total == 0


def test_pictures():
    splits = builtin.load_digit_images()
    assert [len(splits[name][1]) for name in ("train", "test")] == [1433, 364]
    for pictures, labels in splits.values():
        counts = np.bincount(labels)
        assert len(counts) == 10 and counts.min() > 0.95 * counts.mean()
        assert pictures.dtype == np.uint8 and pictures.shape[1:] == (8, 8)
        assert pictures.max() == 255
    both = np.concatenate([splits["train"][0], splits["test"][0]])
    from sklearn.datasets import load_digits

    assert sorted(map(bytes, both)) == sorted(map(bytes, np.round(load_digits().images * 255 / 16).astype(np.uint8)))


def test_words_come_from_other_voices_in_the_test_split():
    tracts = {}
    for split, clips_expected, voices_expected in (("train", 1200, 40), ("test", 300, 10)):
        clips, labels, voices = builtin.load_digit_words(split)
        assert len(clips) == len(labels) == len(voices) == clips_expected
        assert np.bincount(labels).tolist() == [clips_expected // 10] * 10
        tracts[split] = {voice.split("+")[1] for voice in voices}
        assert len(tracts[split]) == voices_expected
        seconds = np.array([len(clip) for clip in clips]) / 16_000
        assert 0.15 < seconds.min() and seconds.max() < 1.0
        loudness = np.array([clip.std() for clip in clips])
        assert 0.03 < loudness.min() and loudness.max() < 0.5
        assert all(np.abs(clip).max() == pytest.approx(0.95, abs=0.01) for clip in clips)
        # Nothing is cut off: a clip begins and ends far below its own loudness.
        edges = [max(np.abs(clip[:80]).mean(), np.abs(clip[-80:]).mean()) / clip.std() for clip in clips]
        assert np.mean(np.array(edges) < 0.3) > 0.95
    assert not tracts["train"] & tracts["test"]


def test_the_shipped_recordings_are_distinct_and_match_their_index():
    with open(builtin.DATA_FOLDER / "digit_words.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1500
    for row in rows:
        assert builtin.DIGIT_WORDS[int(row["label"])] == row["word"]
    for split in ("train", "test"):
        clips, _, _ = builtin.load_digit_words(split)
        assert len({hashlib.sha256(clip.tobytes()).digest() for clip in clips}) == len(clips)
        own = [row for row in rows if row["split"] == split]
        ends = [int(row["start"]) + int(row["length"]) for row in own]
        assert [int(row["start"]) for row in own] == [0, *ends[:-1]]
        assert sum(map(len, clips)) == ends[-1]


def test_the_words_can_be_told_apart():
    """Spectra averaged over five parts of a clip, nearest neighbour among the training voices."""

    def features(split):
        clips, labels, _ = builtin.load_digit_words(split)
        found = []
        for clip in clips:
            frames = np.lib.stride_tricks.sliding_window_view(clip, 400)[::160] * np.hanning(400)
            bands = np.abs(np.fft.rfft(frames))[:, :160].reshape(len(frames), 20, 8).mean(2)
            log = np.log(bands + 1e-3)
            found.append(np.concatenate([part.mean(0) for part in np.array_split(log - log.mean(), 5)]))
        return np.array(found), labels

    train, train_labels = features("train")
    test, test_labels = features("test")
    nearest = ((test[:, None] - train[None]) ** 2).sum(-1).argmin(1)
    assert (train_labels[nearest] == test_labels).mean() > 0.8


def test_prose_is_sorted_by_area_and_split_by_document():
    splits = builtin.load_python_prose()
    names = builtin.text_label_names()
    documents = {}
    for split, least in (("train", 5000), ("test", 1300)):
        paragraphs, labels, sources = splits[split]
        assert len(paragraphs) == len(labels) == len(sources) > least
        counts = np.bincount(labels, minlength=len(names))
        assert counts.min() >= (250 if split == "train" else 100), dict(zip(names, counts, strict=True))
        assert len(set(paragraphs)) == len(paragraphs)
        assert all(len(paragraph.split()) >= 8 and ">>>" not in paragraph for paragraph in paragraphs)
        documents[split] = set(sources)
    assert not documents["train"] & documents["test"]
    assert not set(splits["train"][0]) & set(splits["test"][0])


def test_every_named_module_belongs_to_one_split_of_one_area():
    modules = [name for area in builtin.TEXT_AREAS.values() for names in area.values() for name in names.split()]
    assert len(modules) == len(set(modules))


def test_documents_come_in_a_fixed_order():
    for split in ("train", "test"):
        first = builtin._documents("concurrency", split)
        assert first and first == builtin._documents("concurrency", split)
        order = builtin.TEXT_AREAS["concurrency"][split].split()
        assert [name for name, _ in first] == sorted((name for name, _ in first), key=order.index)


def test_docstrings_are_found_wherever_definitions_are(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        '"""top"""\nif 1:\n    def f():\n        """in if"""\nelse:\n    class C:\n        """in else"""\n'
        '        async def g(self):\n            """method"""\ntry:\n    pass\nexcept OSError:\n    def h():\n'
        '        """in except"""\nfinally:\n    def i():\n        """in finally"""\n'
    )
    assert builtin._docstrings(source) == ["top", "in if", "in else", "method", "in except", "in finally"]
    source.write_text("def broken(:")
    assert builtin._docstrings(source) == []


def test_missing_library_sources_are_explained(monkeypatch):
    monkeypatch.setattr(builtin, "_source_files", lambda module: [])
    builtin.load_python_prose.cache_clear()
    with pytest.raises(RuntimeError, match="data.text"):
        builtin.load_python_prose()
    builtin.load_python_prose.cache_clear()
