"""Decomposition of variance: constructed data of known shares, an independent least-squares oracle, exact sums."""

import numpy as np
import pytest

from d2v_train.inspection.variance import ORDERS, TERMS, TokenSums


def sums_of(states, modalities, concepts, positions=512):
    """`TokenSums` of a list of (T, D) arrays."""
    sums = TokenSums(positions)
    for each, modality, concept in zip(states, modalities, concepts, strict=True):
        sums.add(each, modality, concept)
    return sums


def random_items(seed=0, items=40, balanced=False, width=5):
    """Items of two modalities and four concepts; unless balanced, of different numbers and lengths."""
    generator = np.random.default_rng(seed)
    modalities = np.arange(items) % 2 if balanced else (generator.random(items) < 0.3).astype(int)
    concepts = np.arange(items) // 2 % 4 if balanced else generator.integers(0, 4, items)
    lengths = np.full(items, 6) if balanced else generator.integers(1, 9, items)
    states = [generator.normal(size=(length, width)) for length in lengths]
    return states, modalities, concepts


def least_squares(states, modalities, concepts, terms, weights):
    """Explained sum of squares by an explicit design matrix of every token."""
    columns = {
        "modality": lambda m, p, c: ("m", m),
        "position": lambda m, p, c: ("p", m, p),
        "concept": lambda m, p, c: ("c", c),
        "own_concept": lambda m, p, c: ("mc", m, c),
    }
    tokens = [(m, p, c) for x, m, c in zip(states, modalities, concepts, strict=True) for p in range(len(x))]
    root = np.sqrt(np.repeat(weights, [len(x) for x in states]))[:, None]
    names = [[columns[term](*token) for term in terms] for token in tokens]
    index = {name: i for i, name in enumerate(dict.fromkeys(name for row in names for name in row))}
    design = np.zeros((len(tokens), 1 + len(index)))
    design[:, 0] = 1
    for row, own in enumerate(names):
        for name in own:
            design[row, 1 + index[name]] = 1
    x = np.concatenate(states)
    fitted = design @ np.linalg.lstsq(design * root, x * root, rcond=None)[0]
    mean = (x * root**2).sum(axis=0) / (root**2).sum()
    return float((root**2 * (fitted - mean) ** 2).sum()), float((root**2 * (x - mean) ** 2).sum())


@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_every_set_of_terms_explains_what_least_squares_does(seed, weigh):
    states, modalities, concepts = random_items(seed)
    design = sums_of(states, modalities, concepts).design(weigh)
    lengths = np.array([len(x) for x in states])
    weights = np.ones(len(states))
    if weigh:
        for modality in (0, 1):
            rows = modalities == modality
            weights[rows] = lengths.sum() / (2 * lengths[rows].sum())
    for order in ORDERS:
        for count in range(1, 5):
            explained, total = least_squares(states, modalities, concepts, order[:count], weights)
            assert design.explained(order[:count]) == pytest.approx(explained, rel=1e-10, abs=1e-10)
    assert design.total == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("order", [None, *ORDERS])
def test_shares_of_an_unbalanced_design_sum_up_to_one_and_none_is_negative(order):
    shares = sums_of(*random_items(3)).design().shares(order)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-14)
    assert min(shares.values()) >= -1e-12


def test_the_order_does_not_matter_where_the_design_is_balanced_and_does_where_it_is_not():
    balanced = [sums_of(*random_items(1, balanced=True)).design().shares(order) for order in ORDERS]
    unbalanced = [sums_of(*random_items(1)).design().shares(order) for order in ORDERS]
    for term in TERMS:
        assert np.ptp([shares[term] for shares in balanced]) < 1e-12
    assert max(np.ptp([shares[term] for shares in unbalanced]) for term in TERMS) > 1e-4
    mean = sums_of(*random_items(1)).design().shares()
    for term in TERMS:
        assert mean[term] == pytest.approx(np.mean([shares[term] for shares in unbalanced]), abs=1e-12)


@pytest.mark.parametrize("term", [*TERMS, "residual"])
def test_states_made_of_one_term_belong_to_it(term):
    generator = np.random.default_rng(0)
    modality, position = generator.normal(size=(2, 1, 4)), generator.normal(size=(2, 6, 4))
    position -= position.mean(axis=1, keepdims=True)
    concept, own = generator.normal(size=(4, 1, 4)), generator.normal(size=(2, 4, 1, 4))
    own -= own.mean(axis=0, keepdims=True)
    own -= own.mean(axis=1, keepdims=True)
    noise = generator.normal(size=(48, 6, 4))
    _, modalities, concepts = random_items(items=48, balanced=True)
    states = []
    for item, (m, c) in enumerate(zip(modalities, concepts, strict=True)):
        if term == "residual":
            # Two items of a cell that cancel each other: nothing is left for the other terms.
            states.append(noise[item % 8] * (1 if (item // 8) % 2 else -1))
        else:
            part = {"modality": modality[m], "position": position[m], "concept": concept[c], "own_concept": own[m, c]}
            states.append(np.broadcast_to(part[term], (6, 4)))
    shares = sums_of(states, modalities, concepts).design().shares()
    assert shares[term] == pytest.approx(1, abs=1e-12)


def test_known_variances_are_found():
    generator = np.random.default_rng(0)
    _, modalities, concepts = random_items(items=4000, balanced=True)
    concept = generator.normal(size=(4, 16))
    concept = (concept - concept.mean(axis=0)) / concept.std(axis=0)
    states = [
        2.0 * (m - 0.5) * 2 + 3.0**0.5 * concept[c] + generator.normal(size=(3, 16)) * 3.0**0.5
        for m, c in zip(modalities, concepts, strict=True)
    ]
    shares = sums_of(states, modalities, concepts).design().shares()
    expected = {"modality": 0.4, "position": 0.0, "concept": 0.3, "own_concept": 0.0, "residual": 0.3}
    assert shares == pytest.approx(expected, abs=0.01)


def test_concepts_that_modalities_have_in_common_exceed_their_chance_level_and_unrelated_ones_do_not():
    generator = np.random.default_rng(0)
    modalities, concepts = np.arange(240) % 2, np.arange(240) // 2 % 12
    common, own = generator.normal(size=(12, 8)), generator.normal(size=(2, 12, 8))

    def decomposed(vectors):
        states = [vectors(m, c) + generator.normal(size=(3, 8)) for m, c in zip(modalities, concepts, strict=True)]
        return sums_of(states, modalities, concepts).design().decompose(chance=99)

    related, unrelated = decomposed(lambda m, c: common[c]), decomposed(lambda m, c: own[m, c])
    assert related.concept > related.concept_upper and related.concept_p == 0.01
    # Half of the variance of unrelated concepts looks common; that is why the chance level is there.
    assert unrelated.concept == pytest.approx(unrelated.concept_chance, rel=0.2) and unrelated.concept > 0.15
    assert unrelated.concept_p > 0.05


def test_a_shift_of_all_states_changes_nothing():
    states, modalities, concepts = random_items(2)
    near = sums_of(states, modalities, concepts).design().shares()
    far = sums_of([x + 1e6 for x in states], modalities, concepts).design().shares()
    assert far == pytest.approx(near, abs=1e-8)


def test_equal_weights_do_not_depend_on_the_number_of_items():
    states, modalities, concepts = random_items(4)
    more = [*states, *(x for x, m in zip(states, modalities, strict=True) if m == 1)]
    rows = modalities == 1
    again = (np.append(modalities, modalities[rows]), np.append(concepts, concepts[rows]))
    expected = sums_of(states, modalities, concepts).design().shares()
    assert sums_of(more, *again).design().shares() == pytest.approx(expected, abs=1e-12)
    plain = sums_of(states, modalities, concepts).design(weigh=False).shares()
    assert sums_of(more, *again).design(weigh=False).shares() != pytest.approx(plain, abs=1e-3)


def test_late_positions_count_as_the_last_one():
    states, modalities, concepts = random_items(5)
    shares = sums_of(states, modalities, concepts, positions=1).design().shares()
    assert shares["position"] == pytest.approx(0, abs=1e-12)


def test_states_without_variance_are_residual():
    shares = sums_of([np.ones((2, 3))] * 4, [0, 0, 1, 1], [0, 1, 0, 1]).design().shares()
    assert shares == {**dict.fromkeys(TERMS, 0.0), "residual": 1.0}


def test_one_modality_has_no_chance_level():
    states, _, concepts = random_items(6)
    shares = sums_of(states, [0] * 40, concepts).design().decompose()
    assert shares.concept_chance is None and shares.modality == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("states", "message"), [(np.full((2, 3), np.nan), "finite"), (np.zeros((0, 3)), "finite"), (np.zeros((2, 4)), "3")]
)
def test_mistakes_are_named(states, message):
    sums = sums_of([np.ones((2, 3))], [0], [0])
    with pytest.raises(ValueError, match=message):
        sums.add(states, 0, 0)


def test_an_order_that_puts_a_part_before_the_whole_is_refused():
    with pytest.raises(ValueError, match="admissible"):
        sums_of(*random_items()).design().shares(("position", "modality", "concept", "own_concept"))
    with pytest.raises(ValueError, match="no items"):
        TokenSums().design()
