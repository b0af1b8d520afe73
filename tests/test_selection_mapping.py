import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from keras_micronets.selection import prediction_distances, prediction_map


def pool(n_learners=7):
    return np.random.default_rng(0).dirichlet(np.ones(4), (n_learners, 15))


def test_distances_against_scipy():
    p = pool()
    expected = squareform(pdist(p.reshape(7, -1))) / np.sqrt(15)
    np.testing.assert_allclose(prediction_distances(p), expected)


def test_certain_and_opposed_learners_are_root_two_apart():
    p = np.eye(2)[[[0, 1], [1, 0]]]
    assert prediction_distances(p)[0, 1] == pytest.approx(np.sqrt(2))


def test_distances_in_a_plane_are_shown_exactly():
    points = np.random.default_rng(1).normal(size=(12, 2))
    distances = squareform(pdist(points))
    shown = squareform(pdist(prediction_map(distances)))
    np.testing.assert_allclose(shown, distances, atol=1e-9)


def test_majorisation_lowers_the_stress():
    distances = prediction_distances(pool(20))

    def stress(n_iterations):
        positions = prediction_map(distances, n_iterations=n_iterations)
        return ((squareform(pdist(positions)) - distances) ** 2).sum()

    stresses = [stress(n) for n in (0, 1, 10, 100)]
    assert stresses == sorted(stresses, reverse=True)
    assert stresses[-1] < 0.7 * stresses[0]


@pytest.mark.parametrize("n_learners", [1, 2, 3])
def test_few_and_equal_learners(n_learners):
    alike = pool(1).repeat(n_learners, 0)
    positions = prediction_map(prediction_distances(alike))
    np.testing.assert_allclose(positions, np.zeros((n_learners, 2)), atol=1e-6)
    distances = prediction_distances(pool(n_learners))
    shown = prediction_map(distances)
    assert shown.shape == (n_learners, 2)
    np.testing.assert_allclose(
        np.linalg.norm(shown[:, None] - shown, axis=-1), distances, atol=1e-6
    )


def test_the_map_is_the_same_at_every_call():
    distances = prediction_distances(pool())
    np.testing.assert_array_equal(prediction_map(distances), prediction_map(distances))
