"""What makes a sample unusable, and what is told of it."""

from d2v_train.data.bad_samples import FATAL, NOTES, BadSamples


def test_report_without_findings():
    bad = BadSamples(3)
    assert bad.report() == "No bad samples found among 3." and not bad
    bad.mark(1, "silent")
    assert bad and bad.total == 0


def test_some_notes_are_explained_once_for_a_dataset(caplog):
    bad = BadSamples(5, lambda index: f"{index}.tif")
    for index in (3, 1, 3):
        bad.mark(index, "reduced to 8 bits")
        bad.mark(index, "resampled")
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == ["3.tif"]
    assert "value_range=[low, high]" in caplog.text and bad.counts() == {"resampled": 2, "reduced to 8 bits": 2}
    # Another process that finds it in the shared memory has nothing to add.
    other = BadSamples(5)
    other.flags = bad.flags
    other.mark(4, "reduced to 8 bits")
    assert len(caplog.records) == 1
    bad.mark(0, "decoded at a smaller size")
    assert "max_pixels" in caplog.records[-1].getMessage() and len(caplog.records) == 2


def test_every_reason_has_a_bit_of_its_own():
    bad = BadSamples(len(FATAL + NOTES))
    for index, reason in enumerate(FATAL + NOTES):
        bad.mark(index, reason)
    assert bad.counts() == dict.fromkeys(FATAL + NOTES, 1) and bad.total == len(FATAL)
