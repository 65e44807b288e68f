"""What was fixed in advance, what limits there are, and where all numbers lie."""

import dataclasses

from d2v_train.alignment.report.methods import concepts, methods, nuisances, numbers


def test_what_was_fixed_in_advance_is_shown_with_its_hash(page):
    fixed = page.study.preregistration
    content = methods(page)
    assert fixed.sha256 in content and fixed.text in content and "commit abc1234 of 2026-01-01" in content
    assert "differs from that commit" not in content
    page.study.preregistration = dataclasses.replace(fixed, changed_since=True)
    assert "It differs from that commit." in methods(page)


def test_limits_and_models_are_listed(page):
    content = methods(page)
    for limit in page.study.limits:
        assert f"<li>{limit}</li>" in content
    assert all(model.name in content for model in page.study.models)


def test_nuisances_of_the_main_models_come_first(page):
    content = nuisances(page)
    first, _, rest = content.partition("All models")
    assert "joint 1" in first and "separate 0" not in first and "separate 0" in rest
    page.study.nuisances = []
    assert nuisances(page) is None


def test_concepts_with_their_examples_and_those_left_out(page):
    content = concepts(page)
    assert "Left out, and why (1)" in content and "mostly a first name" in content
    assert content.count("<tr>") == 2 + len(page.study.concepts) + 1
    page.study.concepts = []
    assert concepts(page) is None


def test_all_numbers_are_in_the_file_beside(page):
    table = page.study.tables[0]
    content = numbers(page)
    assert (
        'href="align.json"' in content and f"{table.score[1][2]:.3f}" in content and f"{table.p[1][2]:.4f}" in content
    )
