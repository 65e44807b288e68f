"""Beam search over the outputs of a CTC model, with a language model over words.

The score of a text is log P(text | audio) + alpha * ln P_LM(words) + beta * number of words. Prefix beam search: two
paths through the frames with the same text, after repeats are merged and blanks removed, are one hypothesis, and
their probabilities are added.

pyctcdecode is not used because its last release requires numpy 1. Language models are the same: any ARPA or binary
file of KenLM, read by the `kenlm` package.

Shapes: T frames, V tokens.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np


try:
    import kenlm
except ImportError:  # an extra
    kenlm = None

_LN10 = math.log(10.0)


class WordModel(Protocol):
    """Protocol of a language model that scores one word at a time."""

    def start(self) -> Any:
        """Return the state before the first word."""

    def score(self, state: Any, word: str | None) -> tuple[float, Any]:
        """Return the natural log of P(word | previous words), `None` = end of the text, and the next state."""


class KenLanguageModel:
    """An n-gram model of KenLM.

    Args:
        path: ARPA or binary file. Its words must have the case of the tokenizer's.

    Raises:
        ImportError: `kenlm` is not installed.
    """

    def __init__(self, path: str) -> None:
        if kenlm is None:
            raise ImportError(
                "Decoding with a language model file needs kenlm. Install it with the extra 'lm': "
                '`pip install "modeling-d2v[lm]"`, or `pip install kenlm`.'
            )
        self.model = kenlm.Model(str(path))

    def start(self) -> Any:
        state = kenlm.State()
        self.model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str | None) -> tuple[float, Any]:
        after = kenlm.State()
        return self.model.BaseScore(state, "</s>" if word is None else word, after) * _LN10, after


@lru_cache(maxsize=4)
def load_language_model(path: str) -> KenLanguageModel:
    """Load a KenLM model from a file; the last four are cached."""
    return KenLanguageModel(path)


class Hypothesis(NamedTuple):
    """A text and its score."""

    text: str
    score: float


class _Words(NamedTuple):
    """Language model state of a prefix: complete words, the current word, score and state."""

    done: tuple[str, ...]
    partial: str
    score: float
    state: Any


class _Prefix:
    """A node in the tree of prefixes, with the log probability of its paths by the kind of their last frame."""

    __slots__ = ("parent", "token", "words", "children", "blank", "label", "next_blank", "next_label")

    def __init__(self, parent: "_Prefix | None", token: int | None, words: _Words) -> None:
        self.parent, self.token, self.words = parent, token, words
        self.children: dict[int, _Prefix] = {}
        self.blank = self.label = self.next_blank = self.next_label = -math.inf

    def advance(self) -> None:
        """Advance to the next frame."""
        self.blank, self.label = self.next_blank, self.next_label
        self.next_blank = self.next_label = -math.inf

    def drop(self) -> None:
        """Leave the search; a node with live descendants stays, so that they are found again."""
        self.blank = self.label = self.next_blank = self.next_label = -math.inf
        if not self.children and self.parent is not None:
            del self.parent.children[self.token]


class BeamSearch:
    """Beam search for one vocabulary.

    Args:
        labels: The V tokens.
        blank: Id of the CTC blank.
        delimiter: Id of the token between words; `None` if the labels have none, so that no words are scored.
        ignored: Ids that are never part of a text, such as `<s>`.
        language_model: Scores words; `None` for none.
        alpha: Weight of the language model. Default 0.5.
        beta: Reward of each word, against the language model's bias to few words. Default 1.0.
        beam_width: Hypotheses kept after each frame. Default 100.
        token_min_logp: Tokens below this log probability are not tried, apart from the best one. Default -5.
        beam_min_logp: Scores relative to the best one below which hypotheses are dropped. Default -10.
        phonemes: Whether the labels are phonemes: each one is a word of the language model, and spaces separate them
            in texts. Default False.

    Raises:
        ValueError: A language model is given for labels without a word delimiter.
    """

    def __init__(
        self,
        labels: list[str],
        blank: int,
        delimiter: int | None = None,
        ignored: tuple[int, ...] = (),
        language_model: WordModel | None = None,
        alpha: float = 0.5,
        beta: float = 1.0,
        beam_width: int = 100,
        token_min_logp: float = -5.0,
        beam_min_logp: float = -10.0,
        phonemes: bool = False,
    ) -> None:
        if language_model is not None and delimiter is None and not phonemes:
            raise ValueError(
                "A language model scores words, but the labels have no token that separates words (such as '|'). "
                "Decode without one, or train with a word delimiter."
            )
        for name, number, least in (("beam_width", beam_width, 1), ("alpha", alpha, 0)):
            if not number >= least:
                raise ValueError(f"`{name}` is {number}; it must be at least {least}.")
        if not max(token_min_logp, beam_min_logp) <= 0:
            raise ValueError(
                f"`token_min_logp` and `beam_min_logp` are {token_min_logp} and {beam_min_logp}; they are logarithms "
                "of probabilities, at most 0."
            )
        self.labels, self.blank, self.delimiter, self.ignored = labels, blank, delimiter, list(ignored)
        self.phonemes = phonemes
        self.model, self.alpha, self.beta = language_model, alpha, beta
        self.beam_width, self.token_min_logp, self.beam_min_logp = beam_width, token_min_logp, beam_min_logp

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Return the best hypotheses, best first.

        Args:
            log_probs: (T, V) natural logs of probabilities.
        """
        log_probs = np.array(log_probs, dtype=np.float64)
        log_probs[:, self.ignored] = -np.inf
        root = _Prefix(None, None, _Words((), "", 0.0, self.model.start() if self.model else None))
        root.blank = 0.0
        beams = [root]
        for frame in log_probs:
            tried = np.flatnonzero(frame >= min(self.token_min_logp, frame.max()))
            beams = self._best(self._extend(beams, list(zip(tried.tolist(), frame[tried].tolist(), strict=True))))
        found: dict[str, float] = {}
        for prefix in beams:
            words = self._finish(prefix.words)
            text = " ".join(words.done) if self.phonemes or self.delimiter is not None else words.partial
            score = _log_add(prefix.blank, prefix.label) + words.score
            # Prefixes that differ in delimiters at their ends are the same text.
            found[text] = _log_add(found.get(text, -math.inf), score)
        return sorted((Hypothesis(*entry) for entry in found.items()), key=lambda hypothesis: -hypothesis.score)

    def _extend(self, beams: list[_Prefix], tried: list[tuple[int, float]]) -> dict[int, _Prefix]:
        """Return all prefixes after one more frame, by identity, with `next_blank` and `next_label` set."""
        extended = {id(prefix): prefix for prefix in beams}
        for prefix in beams:
            both = _log_add(prefix.blank, prefix.label)
            for token, logp in tried:
                if token == self.blank:
                    prefix.next_blank = both + logp
                    continue
                before = both
                if token == prefix.token:
                    prefix.next_label = _log_add(prefix.next_label, prefix.label + logp)  # the same token, held
                    before = prefix.blank
                    if before == -math.inf:
                        continue
                longer = prefix.children.get(token)
                if longer is None:
                    longer = prefix.children[token] = _Prefix(prefix, token, self._append(prefix.words, token))
                longer.next_label = _log_add(longer.next_label, before + logp)
                extended[id(longer)] = longer
        return extended

    def _best(self, extended: dict[int, _Prefix]) -> list[_Prefix]:
        """Return the prefixes with the highest scores, without scores of unfinished words."""
        scored = []
        for prefix in extended.values():
            prefix.advance()
            scored.append((_log_add(prefix.blank, prefix.label) + prefix.words.score, prefix))
        scored.sort(key=lambda entry: -entry[0])
        least = scored[0][0] + self.beam_min_logp
        kept = [prefix for score, prefix in scored[: self.beam_width] if score >= least]
        # Last ones first: longer prefixes, which are descendants of others, are mostly there.
        for _, prefix in reversed(scored[len(kept) :]):
            prefix.drop()
        return kept

    def _append(self, words: _Words, token: int) -> _Words:
        if self.phonemes:
            return self._complete(words._replace(partial=self.labels[token]))
        if token == self.delimiter:
            return self._complete(words)
        return words._replace(partial=words.partial + self.labels[token])

    def _complete(self, words: _Words) -> _Words:
        """Finish and score the current word."""
        if not words.partial:
            return words
        score, state = words.score + self.beta * (self.model is not None), words.state
        if self.model is not None:
            logp, state = self.model.score(words.state, words.partial)
            score += self.alpha * logp
        return _Words((*words.done, words.partial), "", score, state)

    def _finish(self, words: _Words) -> _Words:
        """Finish and score the text."""
        if self.delimiter is None and not self.phonemes:
            return words
        words = self._complete(words)
        if self.model is None:
            return words
        return words._replace(score=words.score + self.alpha * self.model.score(words.state, None)[0])


def _log_add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
