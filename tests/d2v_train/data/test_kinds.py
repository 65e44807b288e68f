"""Kinds of records: what one modality decodes, no other takes for its own."""

from itertools import combinations

import numpy as np
import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.tables import AS_FOUND


def test_a_file_belongs_to_one_kind():
    for one, other in combinations(RECORD_KINDS.values(), 2):
        assert not set(one.suffixes) & set(other.suffixes) and not set(one.columns) & set(other.columns)
        assert one.key != other.key
    suffixes = [suffix for kind in RECORD_KINDS.values() for suffix in kind.suffixes]
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)


@pytest.mark.parametrize("modality", RECORD_KINDS)
def test_a_built_in_value_is_decoded_and_that_of_another_modality_is_bad(modality):
    decoded, notes = RECORD_KINDS[modality].decode(RECORD_KINDS[modality].builtin("test").values[0], AS_FOUND)
    assert notes == [] and np.asarray(decoded).size > 0
    for wrong in (b"\xff\xfe\x00neither", 3.5):
        with pytest.raises(BadSample):
            RECORD_KINDS[modality].decode(wrong, AS_FOUND)


def test_recordings_cannot_be_written_to():
    samples, _ = RECORD_KINDS["audio"].decode({"array": np.zeros(20, np.float32), "sampling_rate": 16_000}, AS_FOUND)
    with pytest.raises(ValueError, match="read-only"):
        samples[0] = 1
