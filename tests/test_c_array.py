"""Models as C++ source, and five of them in TensorFlow Lite Micro."""

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from tiny_tflite import tiny_tflite

import keras_micronets as kmn
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export import c_array, write_c_array

pytestmark = pytest.mark.tensorflow

L = keras.layers


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def residual():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    y = L.Conv2D(4, 3, padding="same")(x)
    x = L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([x, y])))
    return keras.Model(inputs, L.Dense(3, activation="softmax")(x))


MODELS = {
    "dense": lambda: sequential(
        (12,), L.Dense(8, activation="relu"), L.Dense(1, activation="sigmoid")
    ),
    "convolutions": lambda: sequential(
        (8, 8, 1),
        L.Conv2D(4, 3),
        L.BatchNormalization(),
        L.ReLU(),
        L.MaxPooling2D(),
        L.Flatten(),
        L.Dense(3, activation="softmax"),
    ),
    "separable": lambda: sequential(
        (10, 10, 3),
        L.DepthwiseConv2D(3, activation="relu6"),
        L.Conv2D(6, 1, activation="relu"),
        L.AveragePooling2D(2),
        L.Flatten(),
        L.Dense(4),
    ),
    "windows": lambda: sequential(
        (32, 3),
        L.Conv1D(8, 5, strides=2, activation="relu"),
        L.GlobalAveragePooling1D(),
        L.Dense(2, activation="softmax"),
    ),
    "residual": residual,
}


def in_micro(path, arena_size, x, spec):
    """Return the outputs of TensorFlow Lite Micro, in the output's dtype."""
    runtime = pytest.importorskip("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=arena_size)
    outputs = []
    for sample in x:
        steps = quantize(sample[None], spec.dtype, *spec.quantization)
        interpreter.set_input(steps, 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0))
    return np.concatenate(outputs)


@pytest.mark.parametrize("name", MODELS)
def test_models_run_in_the_arena_that_was_measured(name, tmp_path):
    pytest.importorskip("tflite_micro")
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:]))
    x = x.astype("float32")
    kmn.layers.prepare(model, quantize=True)
    kmn.layers.set_quantizers(model, True)
    model(x, training=True)
    path = tmp_path / "model.tflite"
    kmn.export_tflite(model, path)
    written = write_c_array(path)
    member = Member(path, task="regression")
    micro = in_micro(path, written.arena_size, x[:8], member.input)
    difference = micro.astype(int) - member.predict_raw(x[:8])
    assert np.abs(difference).max() <= 1
    assert f"arena_size = {written.arena_size};" in written.header.read_text()
    assert written.arena_size < 20_000


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "2 small-ones.tflite"
    path.write_bytes(tiny_tflite())
    return path


def test_the_source_holds_the_bytes_of_the_file(model, monkeypatch):
    monkeypatch.setattr(c_array, "_is_installed", lambda: False)
    written = write_c_array(model)
    assert written.source.name == "2 small-ones.cc"
    assert written.arena_size is None
    source, header = (path.read_text() for path in (written.source, written.header))
    array = source.partition("{")[2].partition("}")[0]
    assert bytes(int(x, 16) for x in re.findall("0x..", array)) == model.read_bytes()
    assert f"g__2_small_ones_size = {written.n_bytes};" in source
    assert "CONV_2D" in header
    assert "_arena_size" not in header


def test_the_source_compiles(model, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    written = write_c_array(model, tmp_path / "net.cc", name="net")
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "net.h"\n#include "net.h"\n#include <cstdio>\n'
        "int main() { fwrite(g_net, 1, g_net_size, stdout);\n"
        "return reinterpret_cast<unsigned long>(g_net) % 16; }\n"
    )
    program = tmp_path / "program"
    flags = ["-std=c++11", "-Wall", "-Werror"]
    files = [main, written.source]
    subprocess.run([compiler, *flags, *files, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, check=True)
    assert done.stdout == model.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "net.c"}, "ends in .cc"),
        ({"name": "1st"}, "letters, digits and underscores"),
        ({"model": "absent.tflite"}, "Expected a .tflite file"),
        ({"model": __file__}, "another one"),
    ],
)
def test_wrong_arguments(model, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_c_array(**{"model": model, "path": tmp_path / "x.cc"} | arguments)
    assert not (tmp_path / "x.cc").exists()


def test_a_model_that_does_not_run_is_rejected(tmp_path):
    pytest.importorskip("tflite_micro")
    model = sequential((4, 4, 4, 1), L.Conv3D(2, 3))
    kmn.export_tflite(model, tmp_path / "m.tflite", quantization=None)
    with pytest.raises(ValueError, match="TensorFlow Lite Micro can run"):
        write_c_array(tmp_path / "m.tflite")
    assert not (tmp_path / "m.cc").exists()


def test_an_ensemble_in_one_file_runs(tmp_path):
    pytest.importorskip("tflite_micro")
    members = [kmn.export.BundleMember(f"m{i}", tiny_tflite(i)) for i in range(2)]
    kmn.export.write_single(tmp_path / "m.tflite", members)
    member = Member(tmp_path / "m.tflite")
    written = write_c_array(tmp_path / "m.tflite")
    x = np.random.default_rng(0).normal(size=(4, *member.input_shape))
    x = x.astype("float32")
    micro = in_micro(tmp_path / "m.tflite", written.arena_size, x, member.input)
    np.testing.assert_allclose(micro, member.predict_raw(x), atol=1e-5)
