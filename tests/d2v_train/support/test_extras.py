"""A missing library is named with the extra that brings it."""

import pytest
import soundfile

from d2v_train.support.extras import MissingDependencyError, need


def test_missing_library_names_its_extra():
    with pytest.raises(MissingDependencyError, match=r"soundfil_.*\[audio\]"):
        need("soundfil_", extra="audio")
    assert need("soundfile", "audio") is soundfile
