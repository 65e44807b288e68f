"""Look inside one encoder of several modalities: units, variance, space and relevance, beside untrained networks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from d2v_train.inspection.ablation import ablate
from d2v_train.inspection.activations import (
    ConceptItems,
    batches,
    feed_forward_outputs,
    token_states,
    unit_activations,
)
from d2v_train.inspection.display import shown, tokens_of
from d2v_train.inspection.relevance import attention_rollout, input_of, integrated_gradients
from d2v_train.inspection.results import (
    Inspection,
    RelevanceMap,
    Sanity,
    SharedUnit,
    UnitCount,
    UnitSummary,
)
from d2v_train.inspection.sanity import FRACTIONS, deletion, randomisation
from d2v_train.inspection.scores import CosineScore, ProbeScore, Score, UnitScore
from d2v_train.inspection.space import find_space
from d2v_train.inspection.units import UnitReport, find_shared_units, top_items
from d2v_train.inspection.variance import Shares, TokenSums


logger = logging.getLogger(__name__)

PIECES = 80
"""Pieces of a recording that relevance is summed over for display: that of samples changes its sign all the time."""


@dataclass(kw_only=True)
class InspectionSettings:
    """Settings of an inspection.

    Attributes:
        layer: Index of `hidden_states` that relevance, probes and the concepts' directions belong to.
        threshold: Smallest AUC of a selective unit.
        permutations: Of the number of shared units.
        chance: Permutations of the chance level of variance.
        random_sets: Random sets of units that ablation is compared with.
        units_shown: Most units in the table.
        examples: Items that are shown of a unit in each modality.
        focus: Names of concepts whose relevance is shown; the rest of `maps` are the first ones.
        maps: Concepts with a map of relevance in each modality.
        checked: Items of each modality that relevance is checked with.
        steps: Points of the integral of integrated gradients.
        batch_size: Items per forward pass.
        seed: Seed of every choice.
    """

    layer: int = -1
    threshold: float = 0.75
    permutations: int = 999
    chance: int = 99
    random_sets: int = 19
    units_shown: int = 12
    examples: int = 4
    focus: Sequence[str] = ()
    maps: int = 3
    checked: int = 8
    steps: int = 32
    batch_size: int = 32
    seed: int = 0


def inspect_encoder(
    model: nn.Module,
    untrained: Sequence[nn.Module],
    items: dict[str, ConceptItems],
    concepts: Sequence[str],
    *,
    name: str = "joint",
    tokenizer: Any = None,
    settings: InspectionSettings | None = None,
) -> Inspection:
    """Look inside an encoder.

    Every choice (a unit's concept, a direction, a probe) is made on one half of the items, and measured on the other.

    Args:
        model: `Data2VecModel` with two or more modalities.
        untrained: The same with random weights, of one or more seeds.
        items: By modality, items that the model was not trained on; every concept twice or more in each modality.
        concepts: Names of the concepts, by number.
        name: Name of the encoder in the report.
        tokenizer: Of texts.
        settings: Default: `InspectionSettings()`.

    Raises:
        ValueError: If there are fewer than two modalities, or a concept has too few items in one.
    """
    settings = settings or InspectionSettings()
    if len(items) < 2:
        raise ValueError(f"An inspection compares two or more modalities; got {', '.join(items) or 'none'}.")
    for modality, part in items.items():
        counts = np.bincount(part.concepts, minlength=len(concepts))
        if counts.min() < 2:
            raise ValueError(
                f"{concepts[int(counts.argmin())]!r} has {counts.min()} {modality} items; give every concept at least "
                "two, one to choose on and one to measure on."
            )
    halves = {modality: part.halves(settings.seed) for modality, part in items.items()}
    chosen, measured = ({modality: half[side] for modality, half in halves.items()} for side in (0, 1))
    view = _View(model, untrained, chosen, measured, list(concepts), tokenizer, settings)
    logger.info("units of %s", name)
    units, shared = view.units()
    logger.info("variance and spaces of %s", name)
    shares, spaces = view.layers(model)
    plain = [view.layers(other)[0] for other in untrained[:1]]
    logger.info("relevance in %s", name)
    maps, sanity = view.relevance(shared)
    return Inspection(
        model=name,
        modalities=list(items),
        concepts=list(concepts),
        layers=[space.layer for space in spaces],
        untrained=len(untrained),
        units=units,
        variance=shares,
        untrained_variance=plain[0] if plain else [],
        spaces=spaces,
        relevance=maps,
        sanity=sanity,
        settings={key: value for key, value in dataclasses.asdict(settings).items() if isinstance(value, int | float)},
    )


@dataclass
class _View:
    """One encoder and its items, divided into those that are chosen on and those that are measured on."""

    model: nn.Module
    untrained: Sequence[nn.Module]
    chosen: dict[str, ConceptItems]
    measured: dict[str, ConceptItems]
    concepts: list[str]
    tokenizer: Any
    settings: InspectionSettings

    def units(self) -> tuple[UnitSummary, list[int]]:
        """Return what is known about units, and the numbers of those that two or more modalities share."""
        settings, size = self.settings, self.settings.batch_size
        report, activations = self._unit_report(self.model)
        others = [self._unit_report(model)[0] for model in self.untrained]
        order: dict[int, None] = {}
        for group in sorted(report.shared, key=lambda group: -len(group.modalities)):
            order |= dict.fromkeys(group.units)
        shared = list(order)
        ablation = {}
        if shared:
            ablation = ablate(
                self.model, self.chosen, self.measured, shared, settings.random_sets, settings.seed, size
            )
        summary = UnitSummary(
            total=next(iter(activations.values())).shape[1],
            items={modality: len(part.items) for modality, part in self.measured.items()},
            threshold=report.threshold,
            level=report.level,
            permutations=settings.permutations,
            selective={modality: int(found.selective.sum()) for modality, found in report.selectivity.items()},
            untrained_selective={
                modality: [int(other.selectivity[modality].selective.sum()) for other in others]
                for modality in report.selectivity
            },
            shared=[
                UnitCount(
                    modalities=group.modalities,
                    count=group.count,
                    expected=group.expected,
                    upper=group.upper,
                    p=group.p,
                    untrained=[other.shared[number].count for other in others],
                    untrained_p=[other.shared[number].p for other in others],
                )
                for number, group in enumerate(report.shared)
            ],
            table=[self._shared_unit(report, activations, unit) for unit in shared[: settings.units_shown]],
            dominance=report.dominance,
            untrained_dominance=others[0].dominance if others else {},
            ablated=len(shared),
            ablation=ablation,
        )
        return summary, shared

    def _unit_report(self, model: nn.Module) -> tuple[UnitReport, dict[str, np.ndarray]]:
        size = self.settings.batch_size
        sides = [
            {modality: (unit_activations(model, part, size), part.concepts) for modality, part in side.items()}
            for side in (self.chosen, self.measured)
        ]
        report = find_shared_units(
            *sides,
            len(self.concepts),
            self.settings.threshold,
            permutations=self.settings.permutations,
            seed=self.settings.seed,
        )
        return report, {modality: values for modality, (values, _) in sides[1].items()}

    def _shared_unit(self, report: UnitReport, activations: dict[str, np.ndarray], unit: int) -> SharedUnit:
        width = feed_forward_outputs(self.model)[0].in_features
        selective = [name for name, found in report.selectivity.items() if found.selective[unit]]
        concept = self._common_concept(report, selective, unit)
        examples = {}
        for modality, part in self.measured.items():
            rows = top_items(activations[modality], unit, self.settings.examples)
            examples[modality] = [self._shown(part, row, activations[modality][row, unit]) for row in rows]
        return SharedUnit(
            block=unit // width + 1,
            unit=unit % width,
            concept=self.concepts[concept],
            auc={
                name: float(found.auc[unit])
                for name, found in report.selectivity.items()
                if found.selective[unit] and found.concept[unit] == concept
            },
            examples=examples,
        )

    @staticmethod
    def _common_concept(report: UnitReport, selective: list[str], unit: int) -> int:
        """Return the concept that most modalities agree on."""
        concepts = [int(report.selectivity[name].concept[unit]) for name in selective]
        return max(concepts, key=concepts.count)

    def _shown(self, part: ConceptItems, row: int, value: float = 0.0):
        name = "" if part.names is None else part.names[row]
        return shown(part.items[row], self.concepts[part.concepts[row]], name, value, self.tokenizer)

    def layers(self, model: nn.Module):
        """Return the shares of variance of every layer, and where modalities lie in it."""
        sums: list[TokenSums] = []
        means: dict[str, list[list[np.ndarray]]] = {}
        for number, (modality, part) in enumerate(self.measured.items()):
            rows = means[modality] = []
            for concept, layers in zip(
                part.concepts, token_states(model, part, self.settings.batch_size), strict=True
            ):
                sums = sums or [TokenSums() for _ in layers]
                for each, states in zip(sums, layers, strict=True):
                    each.add(states, number, int(concept))
                rows.append([states.mean(axis=0) for states in layers])
        shares: list[Shares] = [
            each.design().decompose(chance=self.settings.chance, seed=self.settings.seed) for each in sums
        ]
        concepts = {modality: part.concepts for modality, part in self.measured.items()}
        spaces = []
        for layer in range(len(sums)):
            states = {modality: np.stack([row[layer] for row in rows]) for modality, rows in means.items()}
            spaces.append(find_space(states, concepts, self.concepts, f"layer {layer}"))
        return shares, spaces

    def relevance(self, shared: list[int]) -> tuple[list[RelevanceMap], dict[str, Sanity]]:
        """Return maps of relevance, and whether they can be trusted."""
        settings = self.settings
        wanted = [name for name in settings.focus if name in self.concepts]
        wanted += [name for name in self.concepts if name not in wanted]
        wanted = [self.concepts.index(name) for name in wanted[: settings.maps]]
        maps: list[RelevanceMap] = []
        sanity: dict[str, Sanity] = {}
        for modality, part in self.measured.items():
            directions, centre, probe = self._directions(self.chosen[modality])
            states = self._states(part)
            cosines = _unit_rows(states - centre) @ _unit_rows(directions).T
            for place, concept in enumerate(wanted):
                rows = np.flatnonzero(part.concepts == concept)
                # The item that is nearest to its concept: what the model knows best is what is worth explaining.
                row = int(rows[cosines[rows, concept].argmax()])
                scores: list[Score] = [CosineScore(directions[concept], centre, settings.layer)]
                if place == 0:
                    weight, bias = probe[concept]
                    scores.append(ProbeScore(weight, bias, settings.layer))
                    scores += [UnitScore(unit, f"shared unit {unit}") for unit in shared[:1]]
                maps += [self._map(part, row, score) for score in scores]
            rows = np.random.default_rng(settings.seed).permutation(len(part.items))[: settings.checked]
            sanity[modality] = self._sanity(part, rows, directions, centre)
        return maps, sanity

    def _states(self, part: ConceptItems) -> np.ndarray:
        layer = self.settings.layer
        return np.stack([row[layer].mean(axis=0) for row in token_states(self.model, part, self.settings.batch_size)])

    def _directions(self, part: ConceptItems):
        """Return the directions of concepts (C, D), their centre (D,), and weight and bias of a probe by concept."""
        states = self._states(part)
        centre = states.mean(axis=0)
        numbers = range(len(self.concepts))
        directions = np.stack([states[part.concepts == concept].mean(axis=0) for concept in numbers]) - centre
        scale = states.std(axis=0) + 1e-6
        fitted = LogisticRegression(C=0.03, max_iter=300).fit((states - centre) / scale, part.concepts)
        weights = fitted.coef_ / scale
        biases = fitted.intercept_ - weights @ centre
        if len(weights) == 1:  # of two classes, scikit-learn has one logit
            weights, biases = np.concatenate([-weights, weights]), np.concatenate([-biases, biases])
        probe = dict(zip(fitted.classes_.tolist(), zip(weights, biases.tolist(), strict=True), strict=True))
        return directions.astype(np.float32), centre, probe

    def _inputs(self, part: ConceptItems, row: int) -> dict[str, Tensor]:
        return next(batches(self.model, [part.items[row]], 1))

    def _map(self, part: ConceptItems, row: int, score: Score) -> RelevanceMap:
        inputs = self._inputs(part, row)
        found = integrated_gradients(self.model, inputs, score, self.settings.steps)
        modality, name = input_of(inputs)
        values = found.values
        tokens: list[str] = []
        rollout = attention_rollout(self.model, inputs)
        rollout_shape = [len(rollout)]
        if modality == "vision":
            grid = self.model.config.modality_config(modality).token_grid(inputs[name].shape[1:])
            rollout_shape = list(grid) if grid and grid[0] * grid[1] == len(rollout) else rollout_shape
        elif modality == "audio":
            pieces = min(PIECES, len(values))
            values = np.bincount(np.arange(len(values)) * pieces // len(values), values, pieces)
        elif self.tokenizer is not None:
            tokens = tokens_of(inputs[name][0], self.tokenizer)
        return RelevanceMap(
            item=self._shown(part, row, found.score),
            explained=score.name,
            score=found.score,
            baseline=found.baseline,
            gap=found.gap,
            shape=list(values.shape),
            values=[float(f"{value:.4g}") for value in values.ravel()],
            rollout_shape=rollout_shape,
            rollout=[float(f"{value:.4g}") for value in rollout],
            tokens=tokens,
        )

    def _sanity(self, part: ConceptItems, rows: np.ndarray, directions: np.ndarray, centre: np.ndarray) -> Sanity:
        curves, random, advantages, examples = [], [], [], []
        for row in rows:
            inputs = self._inputs(part, int(row))
            score = CosineScore(directions[part.concepts[row]], centre, self.settings.layer)
            values = integrated_gradients(self.model, inputs, score, self.settings.steps).values
            found = deletion(self.model, inputs, score, values, seed=self.settings.seed)
            curves.append(np.asarray(found.by_relevance) - found.by_relevance[0])
            random.append(np.mean(found.at_random, axis=0) - found.by_relevance[0])
            advantages.append(found.advantage)
            examples.append((inputs, score, values))
        p = float(wilcoxon(advantages, alternative="greater").pvalue) if np.any(advantages) else 1.0
        randomised = {}
        if self.untrained:
            few = examples[: max(2, len(examples) // 3)]
            randomised = randomisation(self.model, self.untrained[0], few, self.settings.steps)
        return Sanity(
            inputs=len(rows),
            fractions=list(FRACTIONS),
            by_relevance=np.mean(curves, axis=0).round(5).tolist(),
            at_random=np.mean(random, axis=0).round(5).tolist(),
            advantages=np.round(advantages, 5).tolist(),
            p=p,
            randomised={name: round(value, 4) for name, value in randomised.items()},
        )


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def untrained_encoders(make: Any, seeds: Sequence[int]) -> list[nn.Module]:
    """Return encoders with random weights, one for each seed; the random state of the process stays.

    Args:
        make: Function without arguments that returns an encoder with new weights.
        seeds: Seeds.
    """
    found = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            found.append(make().eval())
    return found
