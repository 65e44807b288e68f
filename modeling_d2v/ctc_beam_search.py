"""Beam search over the outputs of a CTC model, with a language model over words.

The score of a text is log P(text | audio) + alpha * ln P_LM(words) + beta * number of words. Prefix beam search: two
paths through the frames that read the same, after repeats are merged and blanks left out, are one hypothesis, and
their probabilities are added.

Why not pyctcdecode: its last release asks for numpy 1, so pip refuses to install it beside this package. The language
models are its: any ARPA or binary file of KenLM, read by the `kenlm` package.

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
    """A language model that gives one word at a time."""

    def start(self) -> Any:
        """The state before the first word."""

    def score(self, state: Any, word: str | None) -> tuple[float, Any]:
        """Natural log of P(word | words before), `None` for the end of the text, and the state after it."""


class KenLanguageModel:
    """An n-gram model of KenLM.

    Args:
        path: ARPA or binary file. Its words must be written like the tokenizer's (upper or lower case).

    Raises:
        ImportError: if `kenlm` is not installed.
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
    """The KenLM model of a file; the last four are kept."""
    return KenLanguageModel(path)


class Hypothesis(NamedTuple):
    """A text and its score."""

    text: str
    score: float


class _Words(NamedTuple):
    """What the language model knows of a prefix: complete words, the one that is being written, score and state."""

    done: tuple[str, ...]
    partial: str
    score: float
    state: Any


class _Prefix:
    """A node in the tree of prefixes, with the log probability of its paths by what their last frame was."""

    __slots__ = ("parent", "token", "words", "children", "blank", "label", "next_blank", "next_label")

    def __init__(self, parent: "_Prefix | None", token: int | None, words: _Words) -> None:
        self.parent, self.token, self.words = parent, token, words
        self.children: dict[int, _Prefix] = {}
        self.blank = self.label = self.next_blank = self.next_label = -math.inf

    def advance(self) -> None:
        """To the next frame."""
        self.blank, self.label = self.next_blank, self.next_label
        self.next_blank = self.next_label = -math.inf

    def drop(self) -> None:
        """Out of the search; a node below which others live stays, so that they are found again."""
        self.blank = self.label = self.next_blank = self.next_label = -math.inf
        if not self.children and self.parent is not None:
            del self.parent.children[self.token]


class BeamSearch:
    """Beam search for one vocabulary.

    Args:
        labels: the V tokens.
        blank: id of the CTC blank.
        delimiter: id of the token between words; `None` if the labels have none, then there are no words to score.
        ignored: ids that are never part of a text, such as `<s>`.
        language_model: scores words; `None` for none.
        alpha: weight of the language model. Default 0.5.
        beta: reward of each word, against the language model's liking for few of them. Default 1.0.
        beam_width: hypotheses kept after each frame. Default 100.
        token_min_logp: tokens below this log probability are not tried, apart from the best one. Default -5.
        beam_min_logp: hypotheses whose score is so far below the best one are not kept. Default -10.

    Raises:
        ValueError: if a language model is given for labels without word delimiter.
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
    ) -> None:
        if language_model is not None and delimiter is None:
            raise ValueError(
                "A language model scores words, but the labels have no token that separates words (such as '|'). "
                "Decode without one, or train with a word delimiter."
            )
        self.labels, self.blank, self.delimiter, self.ignored = labels, blank, delimiter, list(ignored)
        self.model, self.alpha, self.beta = language_model, alpha, beta
        self.beam_width, self.token_min_logp, self.beam_min_logp = beam_width, token_min_logp, beam_min_logp

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The best hypotheses, best first.

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
            text = " ".join(words.done) if self.delimiter is not None else words.partial
            score = _log_add(prefix.blank, prefix.label) + words.score
            # Prefixes that differ in delimiters at their ends are the same text.
            found[text] = _log_add(found.get(text, -math.inf), score)
        return sorted((Hypothesis(*entry) for entry in found.items()), key=lambda hypothesis: -hypothesis.score)

    def _extend(self, beams: list[_Prefix], tried: list[tuple[int, float]]) -> dict[int, _Prefix]:
        """All prefixes after one more frame, by their identity, with `next_blank` and `next_label` set."""
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
        """The prefixes with the highest scores, a word that is not finished left out of account."""
        scored = []
        for prefix in extended.values():
            prefix.advance()
            scored.append((_log_add(prefix.blank, prefix.label) + prefix.words.score, prefix))
        scored.sort(key=lambda entry: -entry[0])
        least = scored[0][0] + self.beam_min_logp
        kept = [prefix for score, prefix in scored[: self.beam_width] if score >= least]
        # The last ones first: those that are longer, and hang below others, are mostly there.
        for _, prefix in reversed(scored[len(kept) :]):
            prefix.drop()
        return kept

    def _append(self, words: _Words, token: int) -> _Words:
        if token == self.delimiter:
            return self._complete(words)
        return words._replace(partial=words.partial + self.labels[token])

    def _complete(self, words: _Words) -> _Words:
        """The word that is being written is over."""
        if not words.partial:
            return words
        score, state = words.score + self.beta * (self.model is not None), words.state
        if self.model is not None:
            logp, state = self.model.score(words.state, words.partial)
            score += self.alpha * logp
        return _Words((*words.done, words.partial), "", score, state)

    def _finish(self, words: _Words) -> _Words:
        """The text is over."""
        if self.delimiter is None:
            return words
        words = self._complete(words)
        if self.model is None:
            return words
        return words._replace(score=words.score + self.alpha * self.model.score(words.state, None)[0])


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
