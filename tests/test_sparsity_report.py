import numpy as np
import pytest
from model_cases import residual, sequential

from keras_micronets.layers import kernels, prepare, sparsity, sparsity_report


def test_report_prints_a_row_for_each_kernel():
    model = residual()
    prepare(model)
    kernels(model)[0].set_mask(np.zeros(kernels(model)[0].mask.shape, bool))
    report = sparsity_report(model)
    assert report.sparsity == pytest.approx(sparsity(model))
    lines = str(report).splitlines()
    assert len(lines) == len(kernels(model)) + 2
    assert lines[1].split()[0] == "conv1"
    assert lines[1].endswith("100.0%")
    assert lines[-1].split()[0] == "all"


def test_report_of_a_plain_model_is_empty():
    report = sparsity_report(sequential())
    assert report.rows == ()
    assert report.sparsity == 0.0
    assert "all" in str(report)
