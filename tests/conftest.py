import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits


def pytest_runtest_setup(item):
    backend = keras.backend.backend()
    if item.get_closest_marker("tensorflow") and backend != "tensorflow":
        pytest.skip(f"needs the TensorFlow backend; this is {backend}")


@pytest.fixture(autouse=True)
def fresh_keras():
    """Give every test the same seeds and layer names."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture
def broker(mosquitto):
    """Return the address of the module's `mosquitto`."""
    from keras_micronets.edge import Broker

    return Broker(mosquitto.host, mosquitto.port)


@pytest.fixture
def prefix(request):
    """Return a unique prefix, so that tests do not share topics."""
    return request.node.name.translate(str.maketrans("[]", "__"))[:64]


@pytest.fixture(scope="session")
def digits():
    """Return `((x, y), (x, y), (x, y))`: 1,000 to train, 300 to choose, 497 to test."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(order, [1000, 1300])
    return tuple((x[rows], y[rows].astype("int32")) for rows in parts)


@pytest.fixture
def small_cnn():
    """Return a function that makes a compiled CNN for the digits."""

    def make(*, filters=8, classes=10, activation="softmax"):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(filters, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(classes, activation=activation),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not activation)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    return make
