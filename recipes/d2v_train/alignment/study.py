"""A study from concepts and models to `align.json`: features, comparisons, controls, verdict, displays."""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import torch

from d2v_train.alignment.comparisons import (
    Key,
    Subject,
    align_all,
    best_pair,
    differences_to_untrained,
    family_verdicts,
    layer_table,
    primary_row,
    rule_in_words,
)
from d2v_train.alignment.concepts import ConceptTable, load_concepts
from d2v_train.alignment.displays import all_neighbours, all_questions, concept_probe, similarity_matrices
from d2v_train.alignment.encoders import StudiedModel
from d2v_train.alignment.entries import concept_entries, model_entry
from d2v_train.alignment.extraction import encode_concepts
from d2v_train.alignment.handmade import hand_made_features
from d2v_train.alignment.inspecting import inspect_families
from d2v_train.alignment.known_answers import external_controls, known_answers, passed
from d2v_train.alignment.layers import Alignment, Contrast
from d2v_train.alignment.partials import partial_all
from d2v_train.alignment.protocol import Protocol, last_commit, read_protocol
from d2v_train.alignment.results import Meta, PairVerdict, PrimaryRow, Study, StudyVerdict
from d2v_train.alignment.verdict import PRIMARY_MEASURE, few_concepts_sentence


logger = logging.getLogger("align")
RESULT = "align.json"


@dataclass(kw_only=True)
class StudySettings:
    """What a study is run on.

    Attributes:
        concepts: Folder of concepts.
        models: Trained models.
        output: Folder of the results.
        preregistration: File, or name in `configs`, with the section `study`.
        question: Concept that is looked at alone; None takes that of the preregistration.
        exemplars: Most examples of a concept in a modality.
        templates: Sentences with `{}` for words without sentences.
        corpus: Pairs of a text and its source, searched for words without sentences.
        batch_size: Examples of a forward pass.
        device: Where encoders run.
        positive_control: Whether to add networks whose agreement is known, from packages (about ten minutes).
        inside: Whether to look inside the first model of each joint family (units, variance, relevance).
        command: Command line, for the record.
    """

    concepts: Path
    models: Sequence[StudiedModel]
    output: Path
    preregistration: str = "align_concepts"
    question: str | None = None
    exemplars: int = 20
    templates: Sequence[str] = ()
    corpus: Iterable[tuple[str, str]] | None = None
    batch_size: int = 32
    device: torch.device | str = "cpu"
    positive_control: bool = False
    inside: bool = False
    command: str = ""


@dataclass
class Subjects:
    """All models of a study.

    Attributes:
        trained: Family -> its seeds.
        untrained: Family -> random weights of its architecture.
        others: Hand-made features, and trained models with shuffled names.
    """

    trained: dict[str, list[Subject]]
    untrained: dict[str, list[Subject]]
    others: list[Subject] = field(default_factory=list)

    @property
    def all(self) -> list[Subject]:
        """All of them, trained ones first."""
        return [
            subject for group in (*self.trained.values(), *self.untrained.values()) for subject in group
        ] + self.others


def run_study(settings: StudySettings) -> Study:
    """Run a study and write its results.

    Returns:
        The results, also in `settings.output / "align.json"`.

    Raises:
        OptionError: If the preregistration or a model is wrong.
        ConceptError: If the folder of concepts cannot be used.
    """
    started = time.perf_counter()
    protocol, preregistration = read_protocol(settings.preregistration)
    table = load_concepts(settings.concepts, exemplars=settings.exemplars, corpus=settings.corpus,
                          templates=settings.templates)  # fmt: skip
    logger.info("%s", table.account())
    subjects = encode_all(table, settings, protocol)
    alignments = align_all(subjects.all, protocol)
    contrasts = {family: differences_to_untrained(seeds, subjects.untrained[family], protocol)
                 for family, seeds in subjects.trained.items()}  # fmt: skip
    logger.info("compared with untrained networks")
    shuffled = [subject for subject in subjects.others if subject.kind == "shuffled"]
    controls = known_answers(subjects.trained, shuffled, alignments, protocol)
    if settings.positive_control:
        controls += external_controls()
    verdicts = []
    for family, seeds in subjects.trained.items():
        found = {modality: passed(controls, family, modality) for modality in seeds[0].features}
        verdicts += family_verdicts(seeds, alignments, contrasts[family], found, protocol)
    shown = [subjects.trained[family][0] for family in subjects.trained]
    shown += [subjects.untrained[family][0] for family in subjects.untrained]
    others = [subject for seeds in subjects.trained.values() for subject in seeds[1:]]
    others += [subject for subject in subjects.others if subject.kind == "hand-made"]
    groups = {concept.name: concept.group for concept in table.concepts}
    question = settings.question or protocol.question
    by_name = {subject.name: subject for subject in subjects.all}
    questions = []
    if question is not None:
        for subject in [*shown, *(other for other in others if other.kind != "hand-made")]:
            questions += all_questions(subject, question, groups, permutations_count=protocol.permutations)
    study = Study(
        meta=Meta(
            command=settings.command,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=last_commit(Path(__file__).resolve().parents[3])[0],
            versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy", "scipy")},
            seconds=round(time.perf_counter() - started, 1),
        ),
        preregistration=preregistration,
        modalities=[name for name in table.modalities if any(name in subject.features for subject in subjects.all)],
        concepts=concept_entries(table, subjects.all, settings.output),
        left_out=table.left_out,
        models=[model_entry(subject, settings.models) for subject in subjects.all],
        primary=primary_rows(subjects, alignments, protocol, by_name),
        tables=[layer_table(by_name[key[0]], key, alignment) for key, alignment in alignments.items()],
        best=[best_pair(by_name[key[0]], key, alignment) for key, alignment in alignments.items()],
        similarities=[found for subject in shown for found in similarity_matrices(subject, groups)],
        neighbours=[found for subject in shown for found in all_neighbours(subject)],
        questions=questions,
        controls=controls,
        nuisances=partial_all(table, [*shown, *others], protocol),
        probes=[
            concept_probe(subject.name, features)
            for subject in subjects.all
            if subject.kind != "shuffled"
            for features in subject.features.values()
        ],  # fmt: skip
        verdict=overall(verdicts, protocol),
        limits=limits_of(table, subjects, protocol),
    )
    if settings.inside:
        study.inspections = inspect_families(settings.models, table, [question] if question else [])
    settings.output.mkdir(parents=True, exist_ok=True)
    study.to_json(settings.output / RESULT)
    return study


def encode_all(table: ConceptTable, settings: StudySettings, protocol: Protocol) -> Subjects:
    """Return the concept matrices of all models: trained, untrained, hand-made, shuffled."""
    how = {"batch_size": settings.batch_size, "device": settings.device, "cache": settings.output / "cache"}

    def subject(model: StudiedModel, kind: str, family: str, seed: int | None) -> Subject:
        # In the order of the table, so that all models have the same pairs of modalities.
        features = {modality: encode_concepts(model.parts[modality], table, **how) for modality in table.modalities
                    if modality in model.parts}  # fmt: skip
        logger.info("encoded %s", model.name)
        return Subject(model.name, kind, family, seed, features)

    families: dict[str, list[StudiedModel]] = {}
    for model in settings.models:
        families.setdefault(model.family, []).append(model)
    trained, untrained = {}, {}
    for family, models in families.items():
        trained[family] = [subject(model, model.kind, family, model.seed) for model in models]
        # The twins of the trained seeds come first, then further seeds.
        seeds = dict.fromkeys([model.seed or 0 for model in models])
        further = (seed for seed in range(protocol.untrained + len(seeds)) if seed not in seeds)
        seeds = [*seeds, *further][: max(protocol.untrained, len(seeds))]
        untrained[family] = [subject(models[0].untrained(seed), "untrained", family, seed) for seed in seeds]
    hand_made = {modality: hand_made_features(table, modality) for modality in table.modalities}
    others = [Subject("hand-made", "hand-made", "hand-made", None, hand_made)]
    others += [seed.shuffled(i) for seeds in trained.values() for i, seed in enumerate(seeds)]
    return Subjects(trained, untrained, others)


def primary_rows(
    subjects: Subjects, alignments: dict[Key, Alignment], protocol: Protocol, by_name: dict[str, Subject]
) -> list[PrimaryRow]:
    """Return the row of every model and pair; of trained ones with the difference to all untrained networks."""
    own: dict[Key, Contrast] = {}
    for family, seeds in subjects.trained.items():
        for seed in seeds:
            found = differences_to_untrained([seed], subjects.untrained[family], protocol, measures=(PRIMARY_MEASURE,))
            own |= {(seed.name, *key): difference for key, difference in found.items()}
    return [primary_row(by_name[key[0]], key, alignment, own.get(key)) for key, alignment in alignments.items()
            if key[3] == PRIMARY_MEASURE]  # fmt: skip


def overall(verdicts: list[PairVerdict], protocol: Protocol) -> StudyVerdict:
    """Return the answer of the study: yes if a pair of the first family says yes, no if all of its pairs say no."""
    first = [verdict for verdict in verdicts if verdict.kind == verdicts[0].kind]
    yes = [f"{verdict.first} and {verdict.second}" for verdict in first if verdict.answer == "yes"]
    if yes:
        answer, start = "yes", f"Yes for {', '.join(yes)}"
    elif all(verdict.answer == "no" for verdict in first):
        answer, start = "no", "No: no pair of modalities is aligned"
    else:
        answer, start = "not supported", "The study supports no answer for all pairs of modalities"
    numbers = "; ".join(
        f"{verdict.first} and {verdict.second} {verdict.minus_untrained:+.3f} "
        f"[{verdict.minus_low:+.3f}, {verdict.minus_high:+.3f}]" for verdict in first
    )  # fmt: skip
    sentence = f"{start} in the model {verdicts[0].kind!r} (mutual kNN, trained minus untrained: {numbers})."
    return StudyVerdict(answer=answer, sentence=sentence, rule=rule_in_words(protocol), pairs=verdicts)


def limits_of(table: ConceptTable, subjects: Subjects, protocol: Protocol) -> list[str]:
    """Return what a reader must know to judge the results."""
    limits = []
    counts = {f"{a} and {b}": len(subjects.all[0].common(a, b)) for a, b in combinations(subjects.all[0].features, 2)}
    few = {pair: count for pair, count in counts.items() if count < protocol.least_concepts_for_no}
    limits += [f"{pair}: {few_concepts_sentence(count)}" for pair, count in few.items()]
    seeds = {family: len(members) for family, members in subjects.trained.items()}
    if min(seeds.values()) < 3:
        limits.append(
            f"Seeds: {', '.join(f'{count} of {family}' for family, count in seeds.items())}; three are usual."
        )
    if table.made:
        limits.append(f"Sentences are from {table.made}.")
    limits.append(
        "A permutation test asks whether modalities agree on these concepts, not whether the agreement was learned: "
        "that is the difference to untrained networks."
    )
    limits.append("Similarities, neighbours and the question are shown at the last layer of each modality.")
    return limits
