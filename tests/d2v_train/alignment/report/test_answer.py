"""The top of the page says what was found, with its uncertainty, and warns where it must."""

import dataclasses
import html

import pytest

from d2v_train.alignment.report.answer import badge, controls, evidence, heading


@pytest.mark.parametrize(
    ("answer", "colour", "words"),
    [("yes", "good", "Yes"), ("no", "plain", "No"), ("not supported", "open", "Not supported by this study")],
)
def test_answers_differ_in_words_and_colour(answer, colour, words):
    assert badge(answer) == f'<span class="badge {colour}">{words}</span>'


def test_few_concepts_and_failed_controls_are_said_beside_the_answer(page):
    assert "With 6 concepts, fewer than 30" in heading(page, [])
    page.study.verdict = dataclasses.replace(page.study.verdict, sentence="No.")
    for row in page.study.primary:
        row.n = 60
    assert "fewer than 30" not in heading(page, []) and "Read with care" not in heading(page, [])
    page.study.controls[0] = dataclasses.replace(page.study.controls[0], passed=False)
    assert "Read with care: 1 control did not come out." in heading(page, [])


def test_permutations_are_found_in_the_preregistration(page):
    assert "Permutations" not in heading(page, [])
    page.study.preregistration.content["study"] = {"permutations": 1999}
    assert "<dt>Permutations</dt><dd>1,999</dd>" in heading(page, [])


def test_failed_controls_come_first(page):
    negative = page.study.controls[1]
    page.study.controls = [page.study.controls[0], dataclasses.replace(negative, passed=False)]
    content = controls(page)
    assert "1 of 2 controls came out" in content and content.index(negative.name) < content.index(
        "same data, two seeds"
    )
    assert "<strong>failed</strong>" in content and "<strong>passed</strong>" in content
    page.study.controls = []
    assert controls(page) is None


def test_every_row_of_the_primary_measure_is_drawn_with_its_interval(page):
    content = html.unescape(evidence(page))
    for row in page.study.primary:
        assert f"{row.model}: {row.score:.3f} [{row.low:.3f}, {row.high:.3f}], chance {row.null_mean:.3f}" in content
    assert content.count("minus untrained</text>") == 3
    assert "the highest is" in content


def test_models_without_untrained_twins_have_no_differences(page):
    for row in page.study.primary:
        row.minus_untrained = None
    assert "What training adds" not in evidence(page)
    page.study.primary = []
    assert evidence(page) is None
