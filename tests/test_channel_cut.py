"""What is cut predicts what its model did with zeros in place of the channels."""

import numpy as np
import pytest
from channel_cases import MODELS, images, made, outputs, zeroed

from keras_micronets.channels import cut, plan, utilities


def half(model, **kwargs):
    options = {"params": 0.6, "round_to": 1, "least": 1, **kwargs}
    return plan(model, scores=utilities.Random(1), **options)


@pytest.mark.parametrize("kind", MODELS)
def test_predicts_what_zeros_do(kind):
    model = made(MODELS[kind])
    chosen = half(model)
    small = cut(model, chosen)
    expected = outputs(zeroed(model, chosen), images())
    for ours, theirs in zip(outputs(small, images()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert small.count_params() == chosen.params[1] <= 0.6 * model.count_params()
    assert model.count_params() == chosen.params[0]
