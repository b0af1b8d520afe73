"""The nets of MLPerf Tiny, and one for sensors, equal their files in every bit."""

import importlib

import pytest

TINY = ("ResNet-8", "DS-CNN", "MobileNetV1 0.25", "autoencoder", "Conv1D, sensors")
INTEGER = (
    *("shared head", "U-Net", "CSP and shuffle", "variational autoencoder", "siamese"),
    *("YOLO-like head", "LSTM", "GRU"),
)
PARTLY_FLOAT = ("transformer block",)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [*TINY, *INTEGER])
def test_a_tiny_net_equals_its_file(name):
    parity = importlib.import_module("benchmarks.export.parity")
    row = parity.run(parity.NETS[name])

    assert (row["equal"], row["top1"]) == (1.0, 1.0)
    assert row["float"] == row["announced"] == 0
    assert row["input"] == row["output"] == "int8"


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", PARTLY_FLOAT)
def test_operations_in_float_are_announced(name):
    parity = importlib.import_module("benchmarks.export.parity")
    row = parity.run(parity.NETS[name])
    assert row["equal"] == 1.0
    assert row["float"] > 0
    assert row["announced"] > 0


@pytest.mark.slow
@pytest.mark.tensorflow
def test_random_networks_are_exported():
    """None crashes, floats are announced, and as many agree as when last measured."""
    exports = importlib.import_module("benchmarks.export.random_exports")
    rows = {}
    exports.run(range(50), rows.__setitem__)
    result = exports.summary(rows)
    assert result["graphs"] == 50
    assert result["crashes"] == result["float_not_announced"] == 0
    assert result["agree"] >= 49
    assert result["rejected"] == 0
