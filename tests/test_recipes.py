"""Every recipe learns with its defaults, under every optimizer.

`python -m benchmarks.callbacks.recipes` makes the table of the same experiment.
"""

import pytest

from benchmarks.callbacks.recipes import OPTIMIZERS, PROBLEMS, RECIPES, Bench

N_CLASSES = {"points": 6, "digits": 10, "sensor": 4}


def check(problem, optimizer, **options):
    baseline, found = Bench(problem, optimizer, **options).run(seed=0)
    chance = 1 / N_CLASSES[problem]
    assert baseline > chance + 0.5
    assert set(found) == set(RECIPES)
    for parent, learners in found.values():
        assert len(learners) == 3
        assert min(learners) > chance + 0.4, found
        assert min(learners) >= parent - 0.02, found


@pytest.mark.tensorflow  # PyTorch has no `steps_per_execution`
def test_recipes_fit_adam():
    check("points", "Adam")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_recipe_fits_every_optimizer(problem, optimizer):
    check(problem, optimizer)
