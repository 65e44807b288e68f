import numpy as np
import pytest
from alignment_cases import ALIGNED, confounded, half_shared, independent
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from d2v_train.alignment.geometry import KernelAlignment, RankedDistances, u_centred


MEASURES = [KernelAlignment, RankedDistances]


def song(kernel, other):
    """Unbiased HSIC, equation 5 of Song et al. 2012."""
    m = len(kernel)
    kernel, other = (matrix - np.diag(np.diag(matrix)) for matrix in (kernel, other))
    ones = np.ones(m)
    total = (ones @ kernel @ ones) * (ones @ other @ ones) / ((m - 1) * (m - 2))
    return (np.trace(kernel @ other) + total - 2 / (m - 2) * ones @ kernel @ other @ ones) / (m * (m - 3))


def cka_oracle(a, b):
    kernel, other = a @ a.T, b @ b.T
    return song(kernel, other) / np.sqrt(song(kernel, kernel) * song(other, other))


@pytest.mark.parametrize("make", [half_shared, independent])
def test_debiased_cka_is_that_of_song(make):
    a, b = make()
    assert KernelAlignment(a, b).scores() == pytest.approx(cka_oracle(a, b))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("make", [half_shared, independent])
def test_rsa_is_that_of_rsatoolbox_and_scipy(make, distance):
    a, b = make()
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    distances = [pdist(side, distance) for side in (a, b)]
    score = RankedDistances(a, b, distance=distance).scores()[0, 0]
    assert score == pytest.approx(spearmanr(*distances).statistic)
    assert score == pytest.approx(compare(*(RDMs(side[None]) for side in distances), method="spearman")[0, 0])


def test_partial_rsa_of_degree_one_is_the_partial_spearman_correlation():
    a, b, nuisance = confounded()
    x, y = (rankdata(pdist(side)) for side in (a, b))
    z = rankdata(squareform(nuisance, checks=False))
    xy, xz, yz = np.corrcoef(x, y)[0, 1], np.corrcoef(x, z)[0, 1], np.corrcoef(y, z)[0, 1]
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert RankedDistances(a, b, nuisances={"z": nuisance}, degree=1).scores() == pytest.approx(expected)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("make", ALIGNED.values(), ids=list(ALIGNED))
def test_the_same_space_scores_one(measure, make):
    assert measure(*make()).scores() == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_unrelated_modalities_score_zero_with_few_concepts_too(measure):
    """The biased CKA would be near .6 here."""
    scores = [measure(*independent(n=12, d=32, seed=seed)).scores()[0, 0] for seed in range(200)]
    assert abs(np.mean(scores)) < 3 * np.std(scores) / np.sqrt(200)
    assert 0.15 < measure(*half_shared(n=200)).scores() < 0.85


@pytest.mark.parametrize("measure", MEASURES)
def test_what_one_variable_aligns_vanishes_given_its_distances(measure):
    plain, partial = [], []
    for seed in range(20):
        a, b, nuisance = confounded(seed=seed)
        plain.append(measure(a, b).scores()[0, 0])
        partial.append(measure(a, b, nuisances={"variable": nuisance}).scores()[0, 0])
    assert np.mean(plain) > 0.2
    assert abs(np.mean(partial)) < 3 * np.std(partial) / np.sqrt(20)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_shared_beyond_the_nuisance_remains(measure):
    a, b, nuisance = confounded()
    shared = np.random.default_rng(5).normal(size=(60, 8)) * 2
    a, b = np.hstack([a, shared]), np.hstack([b, shared])
    assert measure(a, b, nuisances={"variable": nuisance}).scores() > 0.3


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("given", [False, True])
def test_a_permutation_of_indices_is_that_of_the_features(measure, given):
    a, b, nuisance = confounded()
    c, d = half_shared(d=8, seed=2)
    order = np.random.default_rng(0).permutation(60)
    if not given:
        moved = measure([a, c], [b[order], d[order], a[order]]).scores()
        np.testing.assert_allclose(measure([a, c], [b, d, a]).permuted(order), moved, atol=1e-12)
        return
    # The residuals of the second modality move, and are regressed anew on nuisances that stay.
    statistic = measure(a, b, nuisances={"variable": nuisance})
    residual = statistic.right.reshape(60, 60)[np.ix_(order, order)][statistic.pairs]
    residual = residual - statistic.basis.T @ (statistic.basis @ residual)
    expected = statistic.left @ residual / np.linalg.norm(residual)
    np.testing.assert_allclose(statistic.permuted(order)[0], expected, atol=1e-12)


@pytest.mark.parametrize("given", [False, True])
def test_cka_of_subsets_is_that_of_their_features(given):
    (a, b, nuisance), (c, d) = confounded(), half_shared(d=8, seed=2)
    random = np.random.default_rng(0)
    chosen = np.stack([np.sort(random.choice(60, 25, replace=False)) for _ in range(3)])

    def measure(part):
        nuisances = {"variable": nuisance[np.ix_(part, part)]} if given else None
        return KernelAlignment([a[part], c[part]], [b[part], d[part]], nuisances=nuisances).scores()

    statistic = KernelAlignment([a, c], [b, d], nuisances={"variable": nuisance} if given else None)
    np.testing.assert_allclose(statistic.subsets(chosen), [measure(part) for part in chosen], atol=1e-9)


@pytest.mark.parametrize("given", [False, True])
def test_rsa_of_subsets_is_the_correlation_of_the_ranks_among_all(given):
    a, b, nuisance = confounded()
    statistic = RankedDistances(a, b, nuisances={"variable": nuisance} if given else None)
    chosen = np.sort(np.random.default_rng(0).choice(60, 25, replace=False))
    cut = np.ix_(chosen, chosen)
    upper = np.triu_indices(25, 1)
    x, y = (side[0][cut][upper] for side in statistic.matrices[:2])
    if given:
        design = np.column_stack([np.ones(len(x)), *(matrix[cut][upper] for matrix in statistic.matrices[2])])
        x, y = (side - design @ np.linalg.lstsq(design, side)[0] for side in (x, y))
    assert statistic.subsets(chosen[None]) == pytest.approx(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("measure", MEASURES)
def test_all_concepts_are_a_subset_too(measure):
    a, b, nuisance = confounded()
    statistic = measure([a, b], [b, a], nuisances={"variable": nuisance})
    np.testing.assert_allclose(statistic.subsets(np.arange(60)[None])[0], statistic.scores(), atol=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_layers_without_spread_or_explained_entirely_score_zero(measure):
    a, b = independent()
    constant = np.full((60, 16), 0.1)
    assert measure(constant, b).scores() == 0
    assert measure(constant, b).subsets(np.arange(30)[None]) == 0
    variable = np.arange(60.0)[:, None]
    nuisance = np.abs(variable - variable.T)
    if measure is KernelAlignment:
        assert measure(variable, variable, nuisances={"variable": nuisance}).scores() == 0


def test_u_centred_rows_sum_to_zero():
    kernel = np.random.default_rng(0).normal(size=(1, 9, 9))
    centred = u_centred(kernel + kernel.transpose(0, 2, 1))
    np.testing.assert_allclose(centred.sum(axis=-1), 0, atol=1e-12)


def test_what_is_not_a_distance_matrix_is_refused():
    a, b = independent()
    with pytest.raises(ValueError, match="'letters' has the shape"):
        RankedDistances(a, b, nuisances={"letters": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="degree"):
        RankedDistances(a, b, degree=0)
    with pytest.raises(ValueError, match="use distance='euclidean'"):
        RankedDistances(a, b, nuisances={"letters": np.zeros((60, 60))}, distance="cosine")
    with pytest.raises(ValueError, match="'manhattan' is unknown"):
        RankedDistances(a, b, distance="manhattan")
