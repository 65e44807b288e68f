"""Beam search against the sum over all paths, with and without a language model."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_d2v import ctc_beam_search
from modeling_d2v.ctc_beam_search import BeamSearch, KenLanguageModel, load_language_model


LABELS = ["<pad>", "|", "a", "b"]
EXACT = {"beam_width": 10_000, "token_min_logp": -math.inf, "beam_min_logp": -math.inf}


class Bigrams:
    """A `WordModel` with made-up probabilities; its state is the word before."""

    table = {("<s>", "ab"): 0.6, ("ab", "b"): 0.5, ("b", None): 0.4, ("ab", None): 0.3, ("<s>", None): 0.2}

    def start(self):
        return "<s>"

    def score(self, state, word):
        return math.log(self.table.get((state, word), 0.01)), word


def log_probs(frames, seed=0, tokens=4):
    logits = np.random.default_rng(seed).normal(size=(frames, tokens)) * 2
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def by_brute_force(scores, model=None, alpha=0.0, beta=0.0):
    """Score of every text: the log of the summed probability of its paths, and the language model's part."""
    texts = {}
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        tokens = [token for token, _ in itertools.groupby(path) if token != 0]
        words = tuple(" ".join("".join(LABELS[token] for token in tokens).split("|")).split())
        texts.setdefault(words, []).append(sum(scores[i, token] for i, token in enumerate(path)))
    found = {}
    for words, paths in texts.items():
        total, state = np.logaddexp.reduce(paths), model.start() if model else None
        for word in (*words, None) if model else ():
            logp, state = model.score(state, word)
            total += alpha * logp + (beta if word is not None else 0)
        found[" ".join(words)] = total
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model, alpha, beta", [(None, 0.0, 0.0), (Bigrams(), 0.7, 1.5)])
def test_a_wide_beam_is_exact(seed, model, alpha, beta):
    scores = log_probs(6, seed)
    expected = by_brute_force(scores, model, alpha, beta)
    found = BeamSearch(LABELS, 0, 1, (), model, alpha, beta, **EXACT)(scores)
    assert found[0].text == max(expected, key=expected.get)
    assert {hypothesis.text for hypothesis in found} == set(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=1e-9)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_a_narrow_beam_finds_the_best_text_with_fewer_hypotheses():
    scores = log_probs(6, 1)
    exact = BeamSearch(LABELS, 0, 1, (), Bigrams(), **EXACT)(scores)
    narrow = BeamSearch(LABELS, 0, 1, (), Bigrams(), beam_width=8)(scores)
    assert narrow[0].text == exact[0].text and len(narrow) <= 8 < len(exact)


def test_paths_of_one_text_are_added_where_greedy_decoding_takes_the_single_best():
    """Greedy reads the blank (0.5 * 0.5); "a" has 0.4 * 0.5 + 0.5 * 0.4 + 0.4 * 0.4 = 0.56 on three paths."""
    scores = np.log(np.array([[0.5, 0.05, 0.4, 0.05]] * 2))
    assert scores.argmax(axis=1).tolist() == [0, 0]
    best = BeamSearch(LABELS, 0, 1)(scores)[0]
    assert best.text == "a" and math.exp(best.score) == pytest.approx(0.4 * 0.5 * 2 + 0.4 * 0.4 + 2 * 0.05 * 0.4)


def test_the_language_model_decides_between_what_sounds_alike():
    scores = np.log(np.array([[0.02, 0.01, 0.95, 0.02], [0.5, 0.01, 0.02, 0.47], [0.02, 0.94, 0.02, 0.02]]))
    assert BeamSearch(LABELS, 0, 1)(scores)[0].text == "a"
    assert BeamSearch(LABELS, 0, 1, (), Bigrams())(scores)[0].text == "ab"


def test_repeats_need_a_blank_between_them():
    frames = np.full((3, 4), -20.0)
    frames[[0, 1, 2], [2, 0, 2]] = 0.0
    assert BeamSearch(LABELS, 0, 1)(frames)[0].text == "aa"
    frames = np.full((2, 4), -20.0)
    frames[:, 2] = 0.0
    assert BeamSearch(LABELS, 0, 1)(frames)[0].text == "a"


def test_ignored_tokens_never_appear():
    scores = log_probs(6, 2)
    scores[:, 3] += 5
    assert "b" in BeamSearch(LABELS, 0, 1)(scores)[0].text
    assert "b" not in BeamSearch(LABELS, 0, 1, ignored=(3,))(scores)[0].text


def test_no_frames_are_an_empty_text():
    assert BeamSearch(LABELS, 0, 1)(np.zeros((0, 4)))[0].text == ""


def test_labels_without_word_delimiter():
    scores = log_probs(5, 0, tokens=3)
    best = BeamSearch(["<pad>", "a", "b"], 0, None, **EXACT)(scores)[0].text
    assert set(best) <= set("ab") and best
    with pytest.raises(ValueError, match="separates"):
        BeamSearch(["<pad>", "a", "b"], 0, None, language_model=Bigrams())


def test_without_kenlm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(ctc_beam_search, "kenlm", None)
    with pytest.raises(ImportError, match="extra 'lm'"):
        KenLanguageModel("model.arpa")


def test_kenlm_models_are_read_as_natural_logarithms_with_states(monkeypatch):
    class State:
        word = None

    class Model:
        def __init__(self, path):
            self.path = path

        def BeginSentenceWrite(self, state):
            state.word = "<s>"

        def BaseScore(self, before, word, after):
            after.word = word
            return {("<s>", "ab"): -1.0, ("ab", "</s>"): -2.0}[before.word, word]

    monkeypatch.setattr(ctc_beam_search, "kenlm", SimpleNamespace(State=State, Model=Model))
    load_language_model.cache_clear()
    model = load_language_model("model.arpa")
    assert model.model.path == "model.arpa" and load_language_model("model.arpa") is model
    logp, state = model.score(model.start(), "ab")
    assert logp == pytest.approx(-math.log(10))
    assert model.score(state, None)[0] == pytest.approx(-2 * math.log(10))
    load_language_model.cache_clear()


class Phonemes:
    """A language model of phonemes: b follows a."""

    def start(self):
        return None

    def score(self, state, word):
        return (0.0 if (state, word) in ((None, "aa"), ("aa", "b")) or word is None else -6.0), word


@pytest.mark.parametrize(
    ("path", "text"), [([2, 2, 0, 3], "aa b"), ([2, 1, 3], "aa | b"), ([2, 0, 2], "aa aa"), ([0, 0], "")]
)
def test_phonemes_are_separated_by_spaces(path, text):
    scores = np.log(np.eye(4)[path] * 0.96 + 0.01)
    assert BeamSearch(["<pad>", "|", "aa", "b"], 0, None, phonemes=True)(scores)[0].text == text


def test_a_language_model_of_phonemes_scores_each():
    scores = np.log(np.array([[0.02, 0.02, 0.94, 0.02], [0.02, 0.02, 0.49, 0.47], [0.94, 0.02, 0.02, 0.02]]))
    scores[1] = np.log([0.02, 0.02, 0.02, 0.94])
    assert BeamSearch(["<pad>", "|", "aa", "b"], 0, None, (), Phonemes(), phonemes=True)(scores)[0].text == "aa b"
    scores[0] = np.log([0.02, 0.02, 0.45, 0.51])  # b alone is likelier to the ear
    alone = BeamSearch(["<pad>", "|", "aa", "b"], 0, None, phonemes=True)(scores)[0].text
    with_model = BeamSearch(["<pad>", "|", "aa", "b"], 0, None, (), Phonemes(), alpha=1.0, phonemes=True)(scores)[
        0
    ].text
    assert (alone, with_model) == ("b", "aa b")


@pytest.mark.parametrize("options", [{"beam_width": 0}, {"alpha": -1}, {"alpha": math.nan}, {"token_min_logp": 0.5}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        BeamSearch(LABELS, 0, 1, **options)
