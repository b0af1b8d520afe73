"""The nets of MLPerf Tiny, and one for sensors, equal their files in every bit."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ("ResNet-8", "DS-CNN", "MobileNetV1 0.25", "autoencoder", "Conv1D, sensors")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_net_equals_its_file(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    parity = importlib.import_module("parity")
    row = parity.run(parity.NETS[name])

    assert (row["equal"], row["top1"]) == (1.0, 1.0)
    assert row["float"] == row["announced"] == 0
    assert row["input"] == row["output"] == "int8"
