"""Examples appear as pictures, players and sentences as long as the budget lasts."""

import pytest

from d2v_train.alignment.report.media import Media, pair_name
from d2v_train.inspection.results import Item


def test_examples_of_each_modality(study, examples):
    media = Media(study.concepts, examples)
    assert '<img src="data:image/png;base64,' in media.example("dog", "vision")
    assert '<audio controls preload="none" src="data:audio/' in media.example("dog", "audio")
    assert f"<q>{study.concepts[0].exemplars['text'].shown[0]}</q>" in media.example(study.concepts[0].name, "text")
    assert "<strong>unknown</strong>" in media.example("unknown", "vision", note="rank 3")


def test_files_are_read_once(study, examples, monkeypatch):
    media, seen = Media(study.concepts, examples), []
    monkeypatch.setattr("d2v_train.alignment.report.media.picture_uri", lambda image: seen.append(1) or "data:image/x")
    for _ in range(3):
        media.example("dog", "vision")
    assert len(seen) == 1


@pytest.mark.parametrize("budget", [0, 1500])
def test_the_budget_is_kept(study, examples, budget):
    media = Media(study.concepts, examples, budget)
    shown = [media.example(concept.name, "vision") for concept in study.concepts for _ in range(10)]
    pictures = sum("<img" in each for each in shown)
    assert media.used <= budget and (pictures > 0) == (budget > 0) and pictures < len(shown)
    assert "<img" not in shown[-1] and "<strong>" in shown[-1]


def test_items_of_the_model(study, examples):
    media = Media(study.concepts, examples)
    item = Item(modality="vision", concept="dog", uri="data:image/png;base64,AAAA")
    assert 'class="small"' in media.item(item) and 'alt="picture of dog"' in media.item(item)
    assert "<q>a big dog</q>" in media.item(Item(modality="text", concept="dog", name="a big dog"))


def test_pairs_have_names():
    assert (
        pair_name("vision", "audio") == "pictures × spoken words" and pair_name("smell", "text") == "smell × sentences"
    )
