from collections import Counter
from pathlib import Path

from keras_micronets.export import ExportReport
from keras_micronets.export.report import Parity

INTEGER = Parity("head", 1.0, 1.0, 0.984375)
FLOAT = Parity("head", 1.25e-7, None, 1.0)


def report(**changes):
    values = {
        "path": Path("model.tflite"),
        "quantization": "int8",
        "calibration": "learned",
        "n_bytes": 12345,
        "gzip_bytes": 2345,
        "operations": Counter(CONV_2D=9, ADD=3),
        "float_operations": Counter(),
        "weight_bytes": Counter(int8=2000, float32=80),
        "sparse_storage": None,
        "n_masked": 1000,
        "n_zeros": 1010,
        "n_weights": 2000,
        "latency": 0.01234,
        "n_compared": 64,
        "compared_on": "noise",
        "outputs": (INTEGER,),
    }
    return ExportReport(**{**values, **changes})


def test_prints_a_table():
    assert str(report()).splitlines() == [
        "file           model.tflite",
        "quantisation   int8, ranges learned",
        "size           12,345 bytes, 2,345 gzipped",
        "weights        2,000 bytes int8, 80 bytes float32",
        "zeros          1,010 of 2,000 integer weights, 1,000 of them masked",
        "operations     9 CONV_2D, 3 ADD",
        "in float       none",
        "latency        0.0123 ms on this machine, one thread",
        "against Keras  largest difference 1 steps, same class in 98.4% of "
        "64 samples of noise",
    ]


def test_prints_a_float_file():
    changes = {"quantization": None, "calibration": None, "n_weights": 0}
    changes |= {"outputs": (FLOAT,), "float_operations": Counter(CONV_2D=9)}
    lines = str(report(**changes)).splitlines()
    assert lines[1] == "quantisation   none"
    assert lines[4] == "zeros          1,000 weights masked"
    assert lines[6] == "in float       9 CONV_2D"
    assert "difference 1.25e-07, same class" in lines[8]


def test_prints_a_line_for_each_output():
    lines = str(report(outputs=(INTEGER, Parity("box", 3.0, 0.5, 0.75)))).splitlines()
    assert lines[8].startswith("against Keras  head: largest difference 1 steps")
    assert lines[9].startswith("               box: largest difference 3 steps")
    assert len(lines) == 10


def test_summary_is_that_of_the_worst_output():
    both = report(outputs=(INTEGER, Parity("box", 3.0, 0.5, 0.75)))
    assert both.largest_difference == 3.0
    assert both.share_within_one_step == 0.5
    assert both.top1_agreement == 0.75
    mixed = report(outputs=(INTEGER, FLOAT))
    assert mixed.share_within_one_step == 1.0
    assert report(outputs=(FLOAT,)).share_within_one_step is None


def test_prints_the_result_of_sparse_storage():
    assert "sparse storage kept: 7 bytes less" in str(
        report(sparse_storage="kept: 7 bytes less")
    )
    assert "storage" not in str(report())
