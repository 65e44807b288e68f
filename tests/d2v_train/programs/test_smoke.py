"""Every published configuration starts at a reduced size, learns and exports."""

import pytest

from d2v_train.options.files import pretraining_configs
from d2v_train.programs.smoke import run_program as smoke


def test_a_configuration_starts_at_reduced_size(capsys):
    """With scaled batches of a token budget, in parts."""
    (row,) = smoke(["audio_base_1gpu", "--steps", "4"])
    assert row["steps"] == 4 and row["parameters"] == "93.8 M" and 0 < float(row["last loss"])
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["audio_base_1gpu", "audio-base", "93.8"]


@pytest.mark.slow
def test_every_configuration_starts_learns_and_exports(capsys):
    rows = smoke([])
    assert [row["name"] for row in rows] == [path.stem for path in pretraining_configs()]
    for row in rows:
        for first, last in zip(row["first loss"].split(), row["last loss"].split(), strict=True):
            assert 0 < float(last) < 1.1 * float(first), f"the loss of {row['name']} rises at once: {row}"
    table = capsys.readouterr().out.splitlines()[-len(rows) - 1 :]
    assert [line.split()[0] for line in table] == ["name", *(row["name"] for row in rows)]
