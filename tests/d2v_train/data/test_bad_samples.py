"""What makes a sample unusable, and what is told of it."""

from d2v_train.data.bad_samples import BadSamples


def test_report_without_findings():
    bad = BadSamples(3)
    assert bad.report() == "No bad samples found among 3." and not bad
    bad.mark(1, "silent")
    assert bad and bad.total == 0
