import json

import numpy as np
import pytest
from alignment_cases import half_shared

from d2v_train.alignment.layers import align
from d2v_train.alignment.serialising import as_json


def test_results_are_written_as_json():
    result = align("retrieval", *half_shared(), permutations=9, draws=9)
    written = json.loads(json.dumps(as_json({("a", "b"): result}), allow_nan=False))["a | b"]
    assert written["scores"] == result.scores.tolist()
    assert written["maximum"]["p_value"] == result.maximum.p_value
    assert written["extra"]["chance"]["percentile"] == 0.5


def test_what_json_lacks_becomes_none_and_the_rest_is_refused():
    assert as_json([np.float64("nan"), np.inf, np.int64(3), True, (1, "a")]) == [None, None, 3, True, [1, "a"]]
    with pytest.raises(TypeError, match="set cannot be written"):
        as_json({1})
