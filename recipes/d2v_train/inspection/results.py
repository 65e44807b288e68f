"""What looking inside an encoder gives, in dataclasses that JSON can hold.

Legend: U hidden units of all shared blocks, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from d2v_train.inspection.ablation import Ablation
from d2v_train.inspection.variance import Shares


@dataclass(kw_only=True)
class Item:
    """An input as a reader sees or hears it.

    Attributes:
        modality: Its modality.
        concept: Name of its concept.
        name: Its name, such as a file; a sentence is its own name.
        uri: Data URI of the picture or the recording as the model gets it; "" for a text.
        value: What it is shown for, such as the activation of a unit.
    """

    modality: str
    concept: str
    name: str = ""
    uri: str = ""
    value: float = 0.0


@dataclass(kw_only=True)
class SharedUnit:
    """A unit that is selective for one concept in several modalities.

    Attributes:
        block, unit: Number of its block, from 1, and in the block, from 0.
        concept: Name of the concept.
        auc: Modality -> AUC on held-out items.
        examples: Modality -> the held-out items that it responds to most.
    """

    block: int
    unit: int
    concept: str
    auc: dict[str, float]
    examples: dict[str, list[Item]] = field(default_factory=dict)


@dataclass(kw_only=True)
class UnitCount:
    """Number of units that some modalities share, against chance.

    Attributes:
        modalities: Their names.
        count: Number of shared units.
        expected, upper: Mean and 95th percentile under renamed concepts.
        p: p-value of the count.
        untrained: The count of each untrained network.
        untrained_p: The p-value of each of them.
    """

    modalities: list[str]
    count: int
    expected: float
    upper: float
    p: float
    untrained: list[int] = field(default_factory=list)
    untrained_p: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class UnitSummary:
    """Hidden units of the shared blocks.

    Attributes:
        total: U.
        items: Modality -> items that selectivity was measured on.
        threshold: Smallest AUC of a selective unit.
        level: False discovery rate.
        permutations: Number of permutations of the counts.
        selective: Modality -> number of selective units.
        untrained_selective: The same, one for each untrained network.
        shared: Every pair of modalities, and all of them.
        table: The shared units, those of most modalities and highest AUC first.
        dominance: Modality -> number of units by share of their energy in it, in equal bins from 0 to 1.
        untrained_dominance: The same of the first untrained network.
        ablated: Number of units that were silenced.
        ablation: Modality -> accuracy of a concept probe without them, and without random ones.
    """

    total: int
    items: dict[str, int]
    threshold: float
    level: float
    permutations: int
    selective: dict[str, int]
    untrained_selective: dict[str, list[int]]
    shared: list[UnitCount]
    table: list[SharedUnit]
    dominance: dict[str, list[int]]
    untrained_dominance: dict[str, list[int]]
    ablated: int = 0
    ablation: dict[str, Ablation] = field(default_factory=dict)


@dataclass(kw_only=True)
class Space:
    """Where the modalities lie in the states of one layer.

    Attributes:
        layer: Name of the layer.
        gap: Distance of the means of two modalities over the root mean square distance of items from the mean of their
            own modality, by "first second".
        names: Names of the concepts.
        points: Modality -> coordinates of the means of these concepts on the first two principal components.
        explained: Shares of the variance of these means on the two components.
        centred: The same after the mean of every modality is removed.
        centred_explained: Their shares.
    """

    layer: str
    gap: dict[str, float]
    names: list[str]
    points: dict[str, list[list[float]]]
    explained: list[float]
    centred: dict[str, list[list[float]]]
    centred_explained: list[float]


@dataclass(kw_only=True)
class RelevanceMap:
    """Relevance of one input for one score.

    Attributes:
        item: The input.
        explained: Name of the score.
        score, baseline: Of the input, and of an input without content.
        gap: Error of the integral: sum of the relevance minus (score - baseline).
        shape: Of `values`: (height, width), (pieces,) or (T,).
        values: Relevance, row by row; of a recording, the sums over equal pieces.
        rollout_shape, rollout: The same of attention roll-out over the tokens.
        tokens: Tokens of a text.
    """

    item: Item
    explained: str
    score: float
    baseline: float
    gap: float
    shape: list[int]
    values: list[float]
    rollout_shape: list[int]
    rollout: list[float]
    tokens: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Sanity:
    """Whether relevance in one modality can be trusted, over several inputs.

    Attributes:
        inputs: Number of inputs.
        fractions: Deleted shares of the input.
        by_relevance: Mean change of the score, with the most relevant parts deleted first.
        at_random: The same in random orders.
        advantages: Area between the two, one for each input; above 0, relevance found what matters.
        p: One-sided p-value of the advantages (Wilcoxon's signed-rank test).
        randomised: What was randomised -> mean rank correlation of the relevance with that of the trained model.
    """

    inputs: int
    fractions: list[float]
    by_relevance: list[float]
    at_random: list[float]
    advantages: list[float]
    p: float
    randomised: dict[str, float]


@dataclass(kw_only=True)
class Inspection:
    """Everything that was found inside one encoder.

    Attributes:
        model: Name of the encoder in the report.
        modalities: Its modalities.
        concepts: Names of the concepts.
        layers: Names of the layers, the input of the blocks first.
        untrained: Number of untrained networks that stand beside it.
        units, variance, untrained_variance, spaces, relevance, sanity: What was found; shares by layer, spaces by
            layer, sanity by modality.
        settings: What was set, such as seeds.
    """

    model: str
    modalities: list[str]
    concepts: list[str]
    layers: list[str]
    untrained: int
    units: UnitSummary | None = None
    variance: list[Shares] = field(default_factory=list)
    untrained_variance: list[Shares] = field(default_factory=list)
    spaces: list[Space] = field(default_factory=list)
    relevance: list[RelevanceMap] = field(default_factory=list)
    sanity: dict[str, Sanity] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
