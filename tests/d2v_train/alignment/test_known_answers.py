"""Controls inside a study come out when the features are good, and fail when they hold nothing."""

from alignment_cases import half_shared, independent
from study_cases import features, subject, vectors

from d2v_train.alignment.comparisons import Subject, align_all
from d2v_train.alignment.controls import ControlReport, ControlRow, noise_control, same_data_control
from d2v_train.alignment.known_answers import external_controls, known_answers, passed
from d2v_train.alignment.layers import contrast
from d2v_train.alignment.protocol import Protocol


PROTOCOL = Protocol(permutations=99, draws=20, neighbours=5)


def controls_of(subjects):
    shuffled = [model.shuffled(i) for i, model in enumerate(subjects)]
    return known_answers({"joint": subjects}, shuffled, align_all(shuffled, PROTOCOL), PROTOCOL)


def test_good_features_pass():
    controls = controls_of([subject("joint 0"), subject("joint 1", seed=1)])
    assert [control.name for control in controls if control.kind == "positive"] == [
        "joint, vision: two halves of the examples",
        "joint, vision: the same examples, two seeds",
        "joint, audio: two halves of the examples",
        "joint, audio: the same examples, two seeds",
    ]
    assert passed(controls, "joint", "vision") and passed(controls, "joint", "audio")
    negative = [control for control in controls if control.kind == "negative"]
    assert len(negative) == 2 and all(control.passed for control in negative)


def test_features_without_concepts_fail():
    nothing = {name: features(name, vectors(0) * 0, seed=i) for i, name in enumerate(("vision", "audio"))}
    controls = controls_of([Subject("joint 0", "joint", "joint", 0, nothing)])
    assert not passed(controls, "joint", "vision")


def test_text_shows_whole_sentences_but_does_not_need_them():
    text = features("text", vectors(0), words=True)
    text.layers += ["sentence 0"]
    text.values += [features("text", vectors(0) * 0, seed=5).values[-1]]
    model = Subject("joint 0", "joint", "joint", 0, {"vision": features("vision", vectors(0)), "text": text})
    controls = controls_of([model])
    sentences = [control for control in controls if "whole sentences" in control.name]
    assert len(sentences) == 1 and not sentences[0].passed
    assert passed(controls, "joint", "text")


def test_a_family_without_controls_has_not_passed():
    assert not passed([], "joint", "vision")


def test_external_controls_hold_the_trained_pairs_and_the_noise(monkeypatch):
    pair, untrained = half_shared(n=40), independent(n=40)
    rows = [
        ControlRow("text encoder, all", "positive", 40, same_data_control(*pair, permutations=199)),
        ControlRow("word counts, all", "lexical", 40, same_data_control(*pair, permutations=99)),
    ]
    contrasts = {"all": {"mutual_knn": contrast("mutual_knn", [pair], [untrained], draws=20)}}
    noise = noise_control(pair[1], width=8, draws=5)
    report = ControlReport(rows, contrasts, [], True, noise)
    monkeypatch.setattr("d2v_train.alignment.known_answers.positive_control", lambda: report)
    positive, negative = external_controls()
    assert (positive.kind, positive.passed, positive.n) == ("positive", True, 40)
    assert "trained minus untrained MiniLM +0." in positive.note
    assert (negative.kind, negative.passed, negative.n) == ("negative", noise.empty, 40)
    assert negative.score == noise.scores["mutual_knn"] and 0 < negative.p <= 1
