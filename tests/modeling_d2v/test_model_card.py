"""Cards: the licence of the source, and changes to a card."""

import pytest
from head_factory import make_head
from huggingface_hub import ModelCard
from model_factory import randomise, tiny_config
from publishable_model import write_card

from modeling_d2v import Data2VecModel
from modeling_d2v.model_card import choose_license, license_in, model_card, read_license, with_license, with_name
from modeling_d2v.sharing.publishing import publish, stage


def test_the_licence_of_the_source_is_carried_on(publishable, hub, tmp_path):
    _, folder = publishable
    write_card(folder, "cc-by-nc-4.0")
    made = publish(folder, "user/pictures")
    assert made.license == "cc-by-nc-4.0" and read_license("user/pictures") == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="cc-by-nc-4.0.*'apache-2.0'"):
        publish(folder, "user/pictures", license="apache-2.0")
    # Through the Hub and back, into another class, and from the memory of a process.
    model = Data2VecModel.from_pretrained("user/pictures")
    model.push_to_hub("user/copy")
    assert read_license("user/copy") == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="commercial"):
        model.push_to_hub("user/other", license="mit")
    assert "user/other" not in hub.repositories


def test_weights_of_unknown_origin_need_a_licence(publishable, tmp_path):
    _, folder = publishable
    write_card(folder, None)
    with pytest.raises(ValueError, match="licence.*'cc-by-nc-4.0'"):
        stage(folder, tmp_path / "out", "user/name")
    made = stage(folder, tmp_path / "out", "user/name", license="MIT")
    assert made.license == license_in(made.card) == "mit" and "- mine" in made.card


def test_weights_from_nowhere_are_apache(hub):
    make_head("Data2VecForImageClassification").push_to_hub("user/new", tags=["pictures"])
    card = ModelCard(hub.files("user/new")["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.tags == ["data2vec", "arxiv:2212.07525", "pictures"]
    assert card.data.pipeline_tag == "image-classification"


def test_a_card_that_is_there_is_kept_by_push_to_hub(hub):
    head = make_head("Data2VecForImageClassification")
    head.push_to_hub("user/new")
    repository = hub.repositories["user/new"]
    files = dict(repository.commits[repository.refs["main"]])
    card = hub.files("user/new")["README.md"].decode() + "\nMy own words.\n"
    files["README.md"] = type(files["README.md"])(card.encode(), False)
    repository.commit("main", files, "edited")
    randomise(head, seed=1).push_to_hub("user/new", license="mit")
    text = hub.files("user/new")["README.md"].decode()
    assert "My own words." in text and license_in(text) == "mit"


@pytest.mark.parametrize(
    ("chosen", "stated", "found"),
    [
        (None, "mit", "mit"),
        ("mit", None, "mit"),
        ("MIT", "apache-2.0", "mit"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    ],
)
def test_choice_of_a_licence(chosen, stated, found):
    assert choose_license(chosen, stated) == found


def test_changing_a_card():
    card = model_card(tiny_config("audio"), "Data2VecForCTC", "runs/x", license=None)
    assert license_in(card) is None and "is not known" in card
    card = with_name(with_license(card, "cc-by-nc-4.0"), "me/speech")
    assert license_in(card) == "cc-by-nc-4.0" and "under cc-by-nc-4.0, which excludes commercial use" in card
    assert card.count('from_pretrained("me/speech", trust') == 2 and "runs/x" not in card
    assert with_name("pipeline(\"fill-mask\", 'a')", "me/b") == 'pipeline("fill-mask", "me/b")'
