import numpy as np
import pytest
import sklearn
from selection_cases import pool
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score

from keras_micronets.edge.combine import RULES
from keras_micronets.selection import (
    EnsembleSelector,
    Targets,
    as_combined,
    combine,
    fit_weights,
    greedy,
    top_k,
)
from keras_micronets.selection.selection import Selection

P, Y = pool(0, n_samples=40, coarse=False)
X = np.moveaxis(P, 0, 1)


def test_it_predicts_as_the_chosen_together():
    selector = EnsembleSelector("top_k", 3).fit(X, Y)
    expected = P[top_k(P, Y, 3).indices].mean(axis=0)
    np.testing.assert_allclose(selector.predict_proba(X), expected)
    np.testing.assert_array_equal(selector.predict(X), expected.argmax(axis=1))
    assert selector.score(X, Y) == accuracy_score(Y, expected.argmax(axis=1))
    np.testing.assert_array_equal(selector.classes_, [0, 1, 2])
    assert selector.n_features_in_ == len(P)


@pytest.mark.parametrize("rule", RULES)
def test_combinations(rule):
    selector = EnsembleSelector("top_k", 3, combination=rule).fit(X, Y)
    kept = P[selector.selection_.indices]
    weights = fit_weights(kept, Y) if rule == "weights" else None
    expected = combine(kept, rule=rule, weights=weights)
    np.testing.assert_allclose(selector.predict_proba(X), expected)


def test_weights_of_the_method_are_those_of_the_mean():
    def uneven(probabilities, y, n_members, *, random_state=None):
        labels = np.zeros(len(probabilities), int)
        return Selection(np.array([1, 4]), labels, np.array([0.2, 0.8]), "uneven")

    selector = EnsembleSelector(uneven).fit(X, Y)
    expected = 0.2 * P[1] + 0.8 * P[4]
    np.testing.assert_allclose(selector.predict_proba(X), expected, atol=1e-7)
    rule = as_combined(selector.selection_, P, Y, "vote")
    assert rule == {"rule": "vote", "weights": None}


def test_scikit_learn_searches_with_it():
    selector = EnsembleSelector("random_k", random_state=3)
    copy = clone(selector)
    assert copy.get_params() == selector.get_params()
    assert copy.set_params(n_members=2).n_members == 2
    scores = cross_val_score(selector, X, Y, cv=4, scoring="neg_log_loss")
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    grid = {"method": ["top_k", "cluster"], "n_members": [1, 3]}
    search = GridSearchCV(selector, grid, scoring="accuracy", cv=3).fit(X, Y)
    assert search.best_params_["method"] in grid["method"]
    assert search.best_estimator_.predict(X).shape == Y.shape


def test_tags_tell_what_it_takes():
    get_tags = pytest.importorskip("sklearn", "1.6").utils.get_tags
    selector = EnsembleSelector()
    tags = get_tags(selector)
    assert tags.estimator_type == "classifier"
    assert is_classifier(selector)
    assert tags.target_tags.required
    assert tags.classifier_tags.multi_class
    assert not tags.classifier_tags.multi_label
    inputs = tags.input_tags
    assert (inputs.two_d_array, inputs.three_d_array) == (False, True)
    assert inputs.positive_only
    assert not any((inputs.allow_nan, inputs.sparse, inputs.string))


@pytest.mark.parametrize("labels", [Y, np.eye(3)[Y]], ids=["sparse", "one-hot"])
def test_sample_weights_are_repeated_samples(labels):
    weights = np.arange(len(Y)) % 4
    weighted = EnsembleSelector("greedy", 3, combination="weights")
    weighted.fit(X, labels, sample_weight=weights)
    repeated = EnsembleSelector("greedy", 3, combination="weights")
    repeated.fit(np.repeat(X, weights, axis=0), np.repeat(Y, weights))
    np.testing.assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6
    )
    expected = greedy(P, Targets(Y, sample_weight=weights), 3)
    np.testing.assert_array_equal(weighted.selection_.indices, expected.indices)
    assert weighted.fit(X, Y, np.eye(len(Y))[0]).score(X[:1], Y[:1]) == 1


def test_sample_weights_must_fit():
    with pytest.raises(ValueError, match=r"weights of shape \(40,\)"):
        EnsembleSelector("greedy").fit(X, Y, sample_weight=[1.0])
    with pytest.raises(ValueError, match="no sample weights"):
        EnsembleSelector("epic").fit(X, Y, sample_weight=np.ones(len(Y)))


def test_scikit_learn_passes_sample_weights():
    received = []

    def record(probabilities, y, n_members, *, random_state=None):
        received.append(getattr(y, "sample_weight", None))
        return top_k(probabilities, y, n_members)

    weights = np.arange(1.0, len(Y) + 1)
    with sklearn.config_context(enable_metadata_routing=True):
        selector = EnsembleSelector(record, 2).set_fit_request(sample_weight=True)
        selector.set_score_request(sample_weight=False)
        assert clone(selector).get_metadata_routing().fit.requests == {
            "sample_weight": True
        }
        cross_val_score(selector, X, Y, cv=4, params={"sample_weight": weights})
        GridSearchCV(selector, {"n_members": [1, 2]}, cv=2).fit(
            X, Y, sample_weight=weights
        )
    assert [len(x) for x in received] == [30] * 4 + [20] * 4 + [40]
    assert all(set(x) <= set(weights) for x in received)


def test_bad_input():
    with pytest.raises(NotFittedError):
        EnsembleSelector().predict(X)
    with pytest.raises(ValueError, match="samples, learners, classes"):
        EnsembleSelector().fit(X[0], Y)
    with pytest.raises(ValueError, match="method to be one of"):
        EnsembleSelector("magic").fit(X, Y)
    with pytest.raises(ValueError, match="combination='sum'"):
        EnsembleSelector(combination="sum").fit(X, Y)
    with pytest.raises(ValueError, match="predictions of 10 learners"):
        EnsembleSelector().fit(X, Y).predict(X[:, :9])


def test_probabilities_never_exceed_one():
    """Weights in single precision add up to 1.00000001 for certain learners."""
    sure = np.array([[[1.0, 0.0], [0.0, 1.0]]] * 3)

    def uneven(probabilities, y, n_members, *, random_state=None):
        labels = np.zeros(3, int)
        return Selection(np.arange(3), labels, np.array([0.04, 0.04, 0.92]), "uneven")

    selector = EnsembleSelector(uneven).fit(np.moveaxis(sure, 0, 1), [0, 1])
    kept = combine(sure, rule="weights", weights=[0.04, 0.04, 0.92])
    assert kept.max() > 1
    assert selector.predict_proba(np.moveaxis(sure, 0, 1)).max() <= 1
