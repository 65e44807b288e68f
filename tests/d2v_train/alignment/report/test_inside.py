"""What was found inside an encoder is shown beside chance and untrained networks."""

import dataclasses

from d2v_train.alignment.report import inside


def test_shares_of_variance_are_bars_with_their_chance_level(page):
    found = page.study.inspections[0]
    content = inside.variance(page, found)
    assert "layer 1, modality: 50.0 %" in content and "8.0 % (to 9.0 %)" in content and "p = 0.010" in content
    assert content.count('class="name">untrained</text>') == 1
    alone = inside.variance(page, dataclasses.replace(found, untrained_variance=[]))
    assert "untrained</text>" not in alone
    assert inside.variance(page, dataclasses.replace(found, variance=[])) is None


def test_the_space_labels_the_concept_in_question(page):
    content = inside.space(page, page.study.inspections[0])
    assert ">dog</text>" in content and ">ox</text>" not in content and "<title>ox, speech</title>" in content
    assert "component 1: 60 %" in content and '<td class="number">1.50</td>' in content
    assert inside.space(page, dataclasses.replace(page.study.inspections[0], spaces=[])) is None


def test_shared_units_have_their_count_examples_and_use(page):
    content = inside.units(page, page.study.inspections[0])
    assert "picture and speech" in content and "0.3 (95 %: up to 1)" in content and "p = 0.040" in content
    assert "block 2, unit 17" in content and "picture: AUC 0.90" in content and "<q>the big dog</q>" in content
    assert "The shared unit is set to zero" in content and "Picture: from 60.0 % to 50.0 %, p = 0.250" in content
    assert content.count("energy in") == 3


def test_no_shared_unit_is_said(page):
    found = page.study.inspections[0]
    summary = dataclasses.replace(found.units, table=[], ablation={}, dominance={})
    content = inside.units(page, dataclasses.replace(found, units=summary))
    assert "No unit is shared" in content and "Are they used?" not in content
    assert inside.units(page, dataclasses.replace(found, units=None)) is None
