"""Controls inside a study, on its own concepts and models, whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

from d2v_train.alignment.comparisons import Key, Subject
from d2v_train.alignment.conclusions import Control
from d2v_train.alignment.controls import is_found, positive_control
from d2v_train.alignment.displays import last_layer
from d2v_train.alignment.layers import Alignment, align
from d2v_train.alignment.nulls import holm
from d2v_train.alignment.protocol import Protocol
from d2v_train.alignment.verdict import ALPHA, PRIMARY_MEASURE


def known_answers(
    trained: dict[str, list[Subject]],
    shuffled: Sequence[Subject],
    alignments: dict[Key, Alignment],
    protocol: Protocol,
) -> list[Control]:
    """Return the controls whose answer is known: two seeds, two halves of the examples, shuffled names.

    Args:
        trained: Family -> its seeds.
        shuffled: Trained models with shuffled names.
        alignments: Of `align_all`.
        protocol: The protocol.
    """
    return [*_positive(trained, protocol), *_negative(shuffled, alignments)]


def passed(controls: Sequence[Control], family: str, modality: str) -> bool:
    """Return whether all positive controls of a modality that a "no" needs were found."""
    needed = [control for control in controls if control.name.startswith(f"{family}, {modality}: ")]
    return bool(needed) and all(control.passed for control in needed)


def _positive(trained: dict[str, list[Subject]], protocol: Protocol) -> list[Control]:
    """Return whether concepts are found again: in another seed, and in the other half of the examples."""
    controls = []
    settings = {"permutations": protocol.permutations, "draws": 0}
    for family, seeds in trained.items():
        for modality, features in seeds[0].features.items():
            last, final = last_layer(features), len(features.layers) - 1
            first, second = features.halves()
            cases = {f"{modality}: two halves of the examples": (first[last], second[last])}
            if len(seeds) > 1:
                pair = [seed.matrices[modality][last] for seed in seeds[:2]]
                cases[f"{modality}: the same examples, two seeds"] = tuple(pair)
            if final != last:
                # Tokens of the same word are alike whatever the sentence says, so the whole sentence is shown too.
                cases[f"{modality}, whole sentences: two halves of the examples"] = (first[final], second[final])
            for name, (a, b) in cases.items():
                found = align(PRIMARY_MEASURE, a, b, **settings, **protocol.settings(PRIMARY_MEASURE, len(a)))
                controls.append(_control(f"{family}, {name}", "positive", found, found.maximum.p_value < ALPHA))
    return controls


def _negative(shuffled: Sequence[Subject], alignments: dict[Key, Alignment]) -> list[Control]:
    """Return whether shuffled names come out empty, over all shuffles."""
    keys = [(subject.name, *pair, PRIMARY_MEASURE) for subject in shuffled for pair in subject.pairs]
    corrected = holm({repr(key): alignments[key].maximum.p_value for key in keys})
    controls = []
    for key in keys:
        p = corrected[repr(key)]
        note = f"p over all {len(keys)} shuffles (Holm): {p:.3g}"
        controls.append(_control(f"{key[0]}, {key[1]} and {key[2]}", "negative", alignments[key], p >= ALPHA, note))
    return controls


def external_controls() -> list[Control]:
    """Return the controls of `controls.positive_control`: networks whose agreement is known, noise beside them.

    Raises:
        MissingControlError: If one of their packages is not installed.
    """
    report = positive_control()
    found = []
    for row in report.rows:
        if row.kind != "positive":
            continue
        minus = report.contrasts[row.name.rpartition(", ")[2]][PRIMARY_MEASURE]
        note = (
            "names of 1,000 classes in MiniLM, their vectors in EfficientNet-Lite0; trained minus untrained MiniLM "
            f"{minus.difference:+.3f} [{minus.interval.low:+.3f}, {minus.interval.high:+.3f}]"
        )
        found.append(_control(row.name, row.kind, row.measures[PRIMARY_MEASURE], is_found(row.measures), note))
    noise = report.noise
    found.append(
        Control(
            name="noise instead of the names",
            kind="negative",
            expected="not above its null",
            measure=PRIMARY_MEASURE,
            n=report.rows[0].concepts,
            score=noise.scores[PRIMARY_MEASURE],
            null_mean=noise.null[PRIMARY_MEASURE],
            null_std=noise.null_std[PRIMARY_MEASURE],
            p=noise.p_value,
            passed=noise.empty,
            note=f"{noise.draws} draws; the p-value is that of as many of them below {ALPHA} by chance",
        )
    )
    return found


def _control(name: str, kind: str, alignment: Alignment, passed: bool, note: str = "") -> Control:
    best = alignment.maximum
    return Control(
        name=name,
        kind=kind,
        expected="above its null" if kind == "positive" else "not above its null",
        measure=alignment.measure,
        n=alignment.concepts,
        score=best.score,
        null_mean=best.null_mean,
        null_std=best.null_std,
        p=best.p_value,
        passed=passed,
        note=note,
    )
