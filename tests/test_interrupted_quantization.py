"""A run that is saved, loaded and continued equals an uninterrupted one."""

import re

import keras
import numpy as np
import pytest
from tiny_keras import compiled, fit, norm_model

from keras_micronets.callbacks import QuantizationAwareTraining, WeightPruning
from keras_micronets.layers.quantizers.observers import LearnedStepSize, MovingAverage
from keras_micronets.schedules import PolynomialDecay

RANGES = [MovingAverage(0.9), LearnedStepSize()]


def callbacks(observer):
    return [
        WeightPruning(PolynomialDecay(0.0, 0.75)),
        QuantizationAwareTraining(
            0.25, observer=observer, freeze_observers=0.75, freeze_batch_norm=0.75
        ),
    ]


def trained(observer, interrupt):
    model = compiled(norm_model())
    fit(model, *callbacks(observer), epochs=2, shuffle=False)
    model = interrupt(model)
    fit(model, *callbacks(observer), epochs=4, initial_epoch=2, shuffle=False)
    return model


def state(model):
    """Return weights, masks, ranges and optimizer slots by path."""
    variables = [*model.variables, *model.optimizer.variables]
    return {own_path(v): keras.ops.convert_to_numpy(v.value) for v in variables}


def own_path(variable):
    """Paths begin with the model's name where Keras built the layers within it."""
    return re.sub("sequential(_[0-9]+)?[/_]", "", variable.path)


@pytest.mark.parametrize("observer", RANGES)
@pytest.mark.slow
def test_saved_and_loaded_during_the_run(observer, tmp_path):
    def interrupt(model):
        model.save(tmp_path / "model.keras")
        return keras.saving.load_model(tmp_path / "model.keras")

    expected = state(trained(observer, interrupt=lambda model: model))
    keras.utils.clear_session()
    found = state(trained(observer, interrupt))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
