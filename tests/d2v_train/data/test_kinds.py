"""Kinds of records: what one modality decodes, no other takes for its own."""

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.kinds import RECORD_KINDS, UNREADABLE_SUFFIXES, readable_suffixes
from d2v_train.data.tables import AS_FOUND, SourceSettings


def test_a_file_belongs_to_one_kind():
    for one, other in combinations(RECORD_KINDS.values(), 2):
        assert not set(one.suffixes) & set(other.suffixes) and not set(one.columns) & set(other.columns)
        assert one.key != other.key
    suffixes = [suffix for kind in RECORD_KINDS.values() for suffix in kind.suffixes]
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)


@pytest.mark.parametrize("modality", RECORD_KINDS)
def test_a_built_in_value_is_decoded_and_that_of_another_modality_is_bad(modality):
    assert "builtin" in RECORD_KINDS[modality].builtin
    for make in RECORD_KINDS[modality].builtin.values():
        decoded, notes = RECORD_KINDS[modality].decode(make("test").values[0], AS_FOUND)
        assert notes == [] and np.asarray(decoded).size > 0
    for wrong in (b"\xff\xfe\x00neither", 3.5):
        with pytest.raises(BadSample):
            RECORD_KINDS[modality].decode(wrong, AS_FOUND)


def test_recordings_cannot_be_written_to():
    samples, _ = RECORD_KINDS["audio"].decode({"array": np.zeros(20, np.float32), "sampling_rate": 16_000}, AS_FOUND)
    with pytest.raises(ValueError, match="read-only"):
        samples[0] = 1


def test_readable_suffixes_are_those_of_the_kind_and_no_others_are_known():
    for modality, kind in RECORD_KINDS.items():
        assert readable_suffixes(modality) == kind.suffixes != ()
        assert not set(kind.suffixes) & UNREADABLE_SUFFIXES.keys()
    assert {".wav", ".m4a"} & set(readable_suffixes("audio")) == {".wav"} and ".m4a" in UNREADABLE_SUFFIXES


def test_settings_of_the_source_reach_the_decoders():
    deep, tone = [[0, 1000], [2000, 4000]], np.sin(np.arange(8000)).tolist()
    image, notes = RECORD_KINDS["vision"].decode(deep, SourceSettings(value_range=[0, 2000], channels=1))
    assert np.asarray(image).tolist() == [[0, 128], [255, 255]] and notes == ["reduced to 8 bits by value_range"]
    with pytest.raises(BadSample, match="max_pixels=4"):
        RECORD_KINDS["vision"].decode(png(5, 1), SourceSettings(max_pixels=4))
    samples, notes = RECORD_KINDS["audio"].decode({"array": tone}, SourceSettings(sampling_rate=8000))
    assert len(samples) == 16_000 and notes == ["resampled"]


def png(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="PNG")
    return file.getvalue()
