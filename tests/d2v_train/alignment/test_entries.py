"""Concepts and models as the results list them."""

from concept_folder import write_concepts
from study_cases import subject

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.encoders import ModelPart, StudiedModel
from d2v_train.alignment.entries import concept_entries, model_entry
from d2v_train.alignment.handmade import hand_made_features


MODELS = [StudiedModel(f"joint {seed}", {name: ModelPart(name, f"runs/{seed}") for name in ("vision", "audio")})
          for seed in (0, 3)]  # fmt: skip


def test_concepts_carry_what_is_known_of_them(tmp_path):
    table = load_concepts(write_concepts(tmp_path / "concepts"))
    parts = {name: hand_made_features(table, name) for name in table.modalities}
    entries = concept_entries(table, [Subject("hand-made", "hand-made", "hand-made", None, parts)], tmp_path / "out")
    dog = next(entry for entry in entries if entry.name == "dog")
    assert (dog.group, dog.corpus_sentences, set(dog.exemplars)) == ("animal/mammal", 23, {"vision", "audio", "text"})
    assert dog.nuisance["letters"] == 3 and dog.nuisance["duration"] == 0.225
    assert {"red", "green", "blue", "log_frequency"} <= set(dog.nuisance)


def test_a_trained_model_names_its_twin():
    entry = model_entry(subject("joint 3", seed=3), MODELS)
    assert entry.encoders == {"vision": "runs/3", "audio": "runs/3"}
    assert entry.untrained_twin == "untrained joint 3" and entry.note == ""


def test_others_say_what_they_are():
    untrained = model_entry(subject("untrained joint 3", "untrained", seed=3, family="joint"), MODELS)
    assert untrained.encoders["vision"] == "runs/0" and "random weights of seed 3" in untrained.note
    shuffled = model_entry(subject("joint 3", seed=3).shuffled(1), MODELS)
    assert shuffled.encoders["vision"] == "runs/3" and shuffled.untrained_twin is None
