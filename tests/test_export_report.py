from collections import Counter
from pathlib import Path

from keras_micronets.export import ExportReport


def report(**changes):
    values = {
        "path": Path("model.tflite"),
        "quantization": "int8",
        "calibration": "learned",
        "n_bytes": 12345,
        "gzip_bytes": 2345,
        "operations": Counter(CONV_2D=9, ADD=3),
        "float_operations": Counter(),
        "n_masked": 1000,
        "n_zeros": 1010,
        "n_weights": 2000,
        "n_compared": 64,
        "largest_difference": 1.0,
        "share_within_one_step": 1.0,
        "top1_agreement": 0.984375,
    }
    return ExportReport(**{**values, **changes})


def test_prints_a_table():
    assert str(report()).splitlines() == [
        "file           model.tflite",
        "quantisation   int8, ranges learned",
        "size           12,345 bytes, 2,345 gzipped",
        "operations     9 CONV_2D, 3 ADD",
        "in float       none",
        "zeros          1,010 of 2,000 int8 weights, 1,000 of them masked",
        "against Keras  largest difference 1 steps, same class in 98.4% of 64 samples",
    ]


def test_prints_a_float_file():
    changes = {"quantization": None, "calibration": None, "n_weights": 0}
    changes |= {"share_within_one_step": None, "largest_difference": 1.25e-7}
    changes |= {"float_operations": Counter(CONV_2D=9)}
    lines = str(report(**changes)).splitlines()
    assert lines[1] == "quantisation   none"
    assert lines[4] == "in float       9 CONV_2D"
    assert lines[5] == "zeros          1,000 weights masked"
    assert "difference 1.25e-07, same class" in lines[6]
