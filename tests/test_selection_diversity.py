import numpy as np
import pytest
from hypothesis import given, settings
from selection_cases import pool, pools
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef

from keras_micronets import selection
from keras_micronets.selection import diversity, metrics

PAIRWISE = [diversity.q_statistic, diversity.correlation, diversity.double_fault]
WITHOUT_Y = [diversity.disagreement, diversity.kappa]
OF_ALL = [
    diversity.entropy,
    diversity.kohavi_wolpert,
    diversity.generalized_diversity,
]


def of_predictions(predictions, n_classes=None):
    predictions = np.asarray(predictions)
    return np.eye(n_classes or max(2, predictions.max() + 1))[predictions]


def of_correctness(right):
    """Learners of two classes that are right where `right` is one; all labels are 1."""
    right = np.asarray(right)
    return of_predictions(right, 2), np.ones(right.shape[1], int)


def table(p, y, i, j):
    """Count the samples that both, only i, only j and none of two have right."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for mine, other, label in zip(p[i], p[j], y, strict=True):
        counts[mine.argmax() == label, other.argmax() == label] += 1
    return counts.values()


def literal_q(a, b, c, d):
    return (a * d - b * c) / (a * d + b * c) if a * d + b * c else 0


def literal_correlation(a, b, c, d):
    product = (a + b) * (c + d) * (a + c) * (b + d)
    return (a * d - b * c) / product**0.5 if product else 0


def literal_double_fault(a, b, c, d):
    return d / (a + b + c + d)


LITERAL = dict(
    zip(PAIRWISE, [literal_q, literal_correlation, literal_double_fault], strict=True)
)


@settings(max_examples=40, deadline=None)
@given(pools())
def test_measures_of_correctness_against_loops(case):
    p, y = case
    for measure, literal in LITERAL.items():
        result = measure(p, y)
        for i in range(len(p)):
            for j in range(len(p)):
                expected = literal(*table(p, y, i, j))
                assert result[i, j] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(pools())
def test_disagreement_against_loops(case):
    p, _ = case
    result = selection.disagreement(p)
    for i in range(len(p)):
        for j in range(len(p)):
            two = zip(p[i], p[j], strict=True)
            different = [np.argmax(a) != np.argmax(b) for a, b in two]
            assert result[i, j] == pytest.approx(np.mean(different))


@settings(max_examples=15, deadline=None)
@given(pools())
def test_kappa_and_correlation_against_scikit_learn(case):
    p, y = case
    classes = p.argmax(axis=2)
    right = classes == y
    kappa, correlation = diversity.kappa(p), diversity.correlation(p, y)
    for i in range(len(p)):
        for j in range(len(p)):
            both = classes[[i, j]]
            expected = 1 if (both == both[0, 0]).all() else cohen_kappa_score(*both)
            assert kappa[i, j] == pytest.approx(expected, abs=1e-6)
            both = right[[i, j]]
            expected = 0 if (both == both[0, 0]).all() else matthews_corrcoef(*both)
            assert correlation[i, j] == pytest.approx(expected, abs=1e-6)


def literal_of_all(p, y):
    """Compute the three from the probabilities that l learners are right."""
    n_learners, n = len(p), len(y)
    entropy = kw = one = two = 0
    for s in range(n):
        right = sum(learner[s].argmax() == y[s] for learner in p)
        wrong = n_learners - right
        half = n_learners - -(-n_learners // 2)
        entropy += min(right, wrong) / half / n
        kw += right * wrong / n_learners**2 / n
        one += wrong / n_learners / n
        two += wrong * (wrong - 1) / n_learners / (n_learners - 1) / n
    return entropy, kw, 1 - two / one if one else 0


@settings(max_examples=40, deadline=None)
@given(pools())
def test_measures_of_ensembles_against_loops(case):
    for measure, expected in zip(OF_ALL, literal_of_all(*case), strict=True):
        assert measure(*case) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(pools())
def test_identities_of_the_paper(case):
    p, y = case
    right = of_predictions((p.argmax(axis=2) == y).astype(int), 2)
    apart = selection.disagreement(right)[np.triu_indices(len(p), 1)].mean()
    kw = (len(p) - 1) / (2 * len(p)) * apart
    assert diversity.kohavi_wolpert(p, y) == pytest.approx(kw, abs=1e-6)
    q, correlation = diversity.q_statistic(p, y), diversity.correlation(p, y)
    assert (np.sign(q) == np.sign(correlation)).all()
    assert (np.abs(correlation) <= np.abs(q) + 1e-6).all()


def test_patterns_of_success_and_failure():
    # Three learners, each right on 6 of 10 samples: two of them on each of 9, which is
    # the best for their vote, or all on 4 and one on each of 6, which is the worst.
    success = np.repeat([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], [3, 3, 3, 1], 0)
    p, y = of_correctness(success.T)
    pair = np.triu_indices(3, 1)
    np.testing.assert_allclose(diversity.q_statistic(p, y)[pair], -1 / 2)
    np.testing.assert_allclose(diversity.correlation(p, y)[pair], -1 / 4)
    np.testing.assert_allclose(diversity.double_fault(p, y)[pair], 0.1)
    assert diversity.entropy(p, y) == pytest.approx(0.9)
    assert diversity.kohavi_wolpert(p, y) == pytest.approx(0.9 * 2 / 9)
    assert diversity.generalized_diversity(p, y) == pytest.approx(1 - 0.1 / 0.4)
    failure = np.repeat([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [4, 2, 2, 2], 0)
    p, y = of_correctness(failure.T)
    np.testing.assert_allclose(diversity.q_statistic(p, y)[pair], 1 / 3)
    np.testing.assert_allclose(diversity.double_fault(p, y)[pair], 0.2)
    assert diversity.generalized_diversity(p, y) == pytest.approx(1 - 0.2 / 0.4)


def test_kappa_of_two_readers_of_fifty_proposals():
    # A textbook example of Cohen's kappa: both yes 20, both no 15, else 5 and 10.
    p = of_predictions(
        np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [20, 5, 10, 15], 0).T
    )
    assert diversity.kappa(p)[0, 1] == pytest.approx(0.4)


def test_learners_that_are_always_right_or_never():
    p, y = of_correctness([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    for measure in (diversity.q_statistic, diversity.correlation):
        np.testing.assert_array_equal(measure(p, y), np.diag([0, 0, 0, 1]))
    np.testing.assert_array_equal(
        diversity.double_fault(p, y),
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0.5, 0.5]],
    )
    np.testing.assert_array_equal(
        diversity.kappa(p), [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize("measure", OF_ALL)
def test_no_diversity(measure):
    p, y = pool(3, copies=False)
    assert measure(p[:1], y) == 0
    assert measure(p[[2, 2, 2]], y) == 0
    assert measure(np.stack([np.eye(3)[y]] * 4), y) == 0
    assert type(measure(p, y)) is float


def test_most_diversity():
    p, y = of_correctness([[0, 1] * 3, [1, 0] * 3])
    assert diversity.entropy(p, y) == 1
    assert diversity.kohavi_wolpert(p, y) == 0.25
    assert diversity.generalized_diversity(p, y) == 1


@settings(max_examples=30, deadline=None)
@given(pools())
def test_the_diagonal(case):
    p, y = case
    rates = metrics.accuracy(p, y)
    varies = (rates > 0) & (rates < 1)
    for measure in (diversity.q_statistic, diversity.correlation):
        np.testing.assert_array_equal(np.diag(measure(p, y)), varies)
    np.testing.assert_allclose(
        np.diag(diversity.double_fault(p, y)), 1 - rates, atol=1e-6
    )
    np.testing.assert_array_equal(np.diag(diversity.kappa(p)), 1)
    np.testing.assert_array_equal(np.diag(diversity.disagreement(p)), 0)


def all_measures(p, y):
    matrices = [measure(p, y) for measure in PAIRWISE]
    return matrices + [measure(p) for measure in WITHOUT_Y]


@settings(max_examples=30, deadline=None)
@given(pools())
def test_the_order_of_the_pool_and_half_precision_change_nothing(case):
    p, y = case
    half = np.float16(p)
    order = np.random.default_rng(0).permutation(len(p))
    for result, moved in zip(
        all_measures(half, y), all_measures(half[order], y), strict=True
    ):
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(result, result.T)
        np.testing.assert_array_equal(moved, result[np.ix_(order, order)])
    single = half.astype(np.float32)
    for ours, theirs in zip(
        all_measures(half, y), all_measures(single, y), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for measure in OF_ALL:
        assert measure(half, y) == measure(half[order], y) == measure(single, y)


# 64 samples are a word, and 64 learners the smallest tile; 300 classes take nine bits.
@pytest.mark.parametrize("n_samples", [1, 63, 64, 65, 16_400])
def test_many_learners_samples_and_classes(n_samples):
    random = np.random.default_rng(n_samples)
    classes = random.integers(0, 300, (70 if n_samples > 65 else 600, n_samples))
    classes[3] = classes[1]
    classes[-1] = classes[0]
    classes[2, ::2] = classes[1, ::2]
    result = diversity.over_pairs(
        classes.astype(np.uint16), lambda differ, rows, columns: differ, "", 0
    )
    for i in (0, 1, 2, 3, 65, len(classes) - 1):
        np.testing.assert_array_equal(result[i], (classes != classes[i]).sum(axis=1))
        np.testing.assert_array_equal(result[:, i], result[i])


def test_classes_beyond_a_byte():
    p = of_predictions([[0, 1], [256, 1], [0, 299]], 300)
    result = diversity.disagreement(p) * 2
    np.testing.assert_array_equal(result, [[0, 1, 1], [1, 0, 2], [1, 2, 0]])


def test_blocks_of_learners(monkeypatch):
    p, y = pool(1, n_learners=20)
    whole = all_measures(p, y)
    monkeypatch.setattr("keras_micronets.selection.validation.BLOCK_BYTES", 1)
    for ours, theirs in zip(whole, all_measures(p, y), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_progress(capsys):
    p, y = pool(2)
    all_measures(p, y)
    assert capsys.readouterr().err == ""
    diversity.disagreement(p, verbose=1)
    assert capsys.readouterr().err == "\rdisagreement: 0%\rdisagreement: 100%\n"
    diversity.correlation(p, y, verbose=1)
    assert capsys.readouterr().err.endswith("correlation: 100%\n")


@pytest.mark.parametrize("measure", PAIRWISE + OF_ALL)
def test_bad_labels(measure):
    p, y = pool(4)
    with pytest.raises(ValueError, match="labels of shape"):
        measure(p, y[1:])
    with pytest.raises(ValueError, match="empty pool"):
        measure(p[:0], y)


@pytest.mark.parametrize("measure", WITHOUT_Y)
def test_bad_probabilities(measure):
    p, _ = pool(4)
    with pytest.raises(ValueError, match="learners, samples, classes"):
        measure(p[0])
    with pytest.raises(ValueError, match="NaN"):
        measure(np.where(p > 0.5, np.nan, p))


@pytest.mark.slow
def test_ten_thousand_learners_take_seconds():
    from time import perf_counter

    random = np.random.default_rng(0)
    classes = random.integers(0, 10, (10_000, 2000), dtype=np.uint8)
    start = perf_counter()
    result = diversity.over_pairs(classes, lambda differ, *where: differ, "", 0)
    assert perf_counter() - start < 60
    np.testing.assert_array_equal(result[77], (classes != classes[77]).sum(axis=1))
