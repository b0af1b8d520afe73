"""The nets of MLPerf Tiny, and one for sensors, equal their files in every bit."""

import importlib

import pytest

TINY = ("ResNet-8", "DS-CNN", "MobileNetV1 0.25", "autoencoder", "Conv1D, sensors")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_net_equals_its_file(name):
    parity = importlib.import_module("benchmarks.export.parity")
    row = parity.run(parity.NETS[name])

    assert (row["equal"], row["top1"]) == (1.0, 1.0)
    assert row["float"] == row["announced"] == 0
    assert row["input"] == row["output"] == "int8"
