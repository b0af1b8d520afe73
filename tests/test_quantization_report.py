import keras
import numpy as np
import pytest
from model_cases import images, residual, sequential, subclassed

import keras_micronets as kmn
from keras_micronets import layers
from keras_micronets.layers.quantization import quantizers


def quantised(model, *, seen=True):
    layers.prepare(model, quantize=layers.QuantizationScheme(kernel_bits=4))
    if seen:
        layers.set_quantizers(model, True)
        model(images(), training=True)
    return model


def test_a_row_for_each_quantiser():
    model = quantised(residual())
    report = kmn.quantization_report(model)
    assert len(report.rows) == len(quantizers(model)) > 5
    assert all(row.active and row.learned for row in report.rows)
    assert len(str(report).splitlines()) == len(report.rows) + 1


def test_range_of_a_kernel_is_that_of_its_largest_weight():
    model = quantised(residual())
    (row,) = [
        row
        for row in kmn.quantization_report(model).rows
        if (row.layer, row.tensor) == ("conv1", "kernel")
    ]
    largest = np.abs(keras.ops.convert_to_numpy(model.get_layer("conv1").kernel)).max()
    assert row.upper == -row.lower == pytest.approx(largest)
    assert (row.bits, row.n_steps) == (4, 4)
    assert row.step == pytest.approx(largest / 7)


def test_range_of_an_output_is_that_of_its_quantiser():
    model = quantised(residual())
    quantizer = model.get_layer("relu1").output_quantizer
    (row,) = [r for r in kmn.quantization_report(model).rows if r.layer == "relu1"]
    bounds = [float(bound) for bound in quantizer.bounds()]
    assert [row.lower, row.upper] == pytest.approx(bounds)
    assert row.step == pytest.approx(float(quantizer.scale()))
    assert row.tensor == "output"
    assert "in steps of" in str(row)


def test_quantisers_that_are_off_without_data_say_so():
    report = kmn.quantization_report(quantised(sequential(), seen=False))
    text = str(report)
    assert "no data seen, off" in text
    assert not any(row.active for row in report.rows)


def test_plain_and_subclassed_models():
    assert kmn.quantization_report(sequential()).rows == ()
    model = subclassed()
    model(images())
    names = {row.tensor for row in kmn.quantization_report(quantised(model)).rows}
    assert {"kernel", "output"} <= names
