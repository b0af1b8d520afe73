"""LSTM and GRU with quantisers in their cells: ranges, rounding, files."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from exact_cases import assert_equals_its_file, images, learned
from keras import layers, ops

from keras_micronets.callbacks import QuantizationAwareTraining
from keras_micronets.export import export_tflite
from keras_micronets.layers import (
    QuantizationScheme,
    clone,
    keeps_state,
    kernels,
    prepare,
    quantization_report,
    set_quantizers,
    strip,
)
from keras_micronets.layers.quantizers.observers import LearnedStepSize, MovingAverage

STEPS, FEATURES, UNITS = 5, 3, 4
SHAPE = (STEPS, FEATURES)


def model_of(layer, shape=SHAPE):
    """Return a prepared model of one layer, and its quantisers by tensor."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input(shape), layer])
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.6, variable.shape))
    prepare(model, quantize=True)
    set_quantizers(model, True)
    return model


def ranges(model):
    rows = quantization_report(model).rows
    return {row.tensor: (row.lower, row.upper) for row in rows}


def array(variable):
    return ops.convert_to_numpy(variable).astype("float64")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(layer, x, rounded):
    """Compute an LSTM as its equations say; `rounded` sees the tensors by name."""
    kernel, inner, bias = map(array, layer.cell.trainable_variables)
    kernel, inner = rounded("kernel", kernel), rounded("recurrent_kernel", inner)
    x = rounded("input_0", x)
    state = carry = None
    for t in range(x.shape[1]):
        z = rounded("projection", x[:, t] @ kernel + bias)
        if state is not None:
            z = rounded("preactivation", z + rounded("recurrent", state @ inner))
        i, f, c, o = np.split(z, 4, axis=1)
        i, f, o = (rounded("gate", sigmoid(gate)) for gate in (i, f, o))
        added = i * rounded("candidate", np.tanh(c))
        if carry is not None:
            added = rounded("forgotten", f * carry) + rounded("added", added)
        carry = rounded("carry", added)
        activated = rounded("activated_carry", np.tanh(carry))
        state = rounded("output", o * activated)
    return state


def gru(layer, x, rounded):
    """Compute a GRU as its equations say; `rounded` sees the tensors by name."""
    kernel, inner, bias = map(array, layer.cell.trainable_variables)
    kernel, inner = rounded("kernel", kernel), rounded("recurrent_kernel", inner)
    x = rounded("input_0", x)
    state = np.zeros((len(x), UNITS))
    for t in range(x.shape[1]):
        outer = rounded("projection", x[:, t] @ kernel + bias[0])
        hidden = rounded("recurrent", state @ inner + bias[1])
        n = 2 * UNITS
        gates = rounded("preactivation", outer[:, :n] + hidden[:, :n])
        z, r = np.split(rounded("gate", sigmoid(gates)), 2, axis=1)
        reset = rounded("reset", r * hidden[:, n:])
        before = rounded("candidate_preactivation", outer[:, n:] + reset)
        added = rounded("rest", 1 - z) * rounded("candidate", np.tanh(before))
        state = rounded("output", rounded("kept", z * state) + rounded("added", added))
    return state


CELLS = {"LSTM": (layers.LSTM, lstm), "GRU": (layers.GRU, gru)}
every_cell = pytest.mark.parametrize("cell", CELLS)


FIXED = {"gate", "candidate", "rest", "activated_carry"}
KERNELS = {"kernel", "recurrent_kernel"}


def rounding(found):
    """Return a function that rounds tensors within ranges by name."""

    def rounded(name, values):
        lower, upper = found[name]
        if name in KERNELS:  # the recurrent one has a scale for each unit
            axis = 0 if name == "recurrent_kernel" else None
            scale = abs(values).max(axis) / 127
        else:
            scale = (upper - lower) / 255
        return np.round(np.clip(values, lower, upper) / scale) * scale

    return rounded


@every_cell
def test_the_first_batch_sets_ranges_of_all_steps(cell):
    make, reference = CELLS[cell]
    model, seen = model_of(make(UNITS)), {}
    x = images(16, SHAPE)
    model(x, training=True)
    found = ranges(model)
    rounded_at_once = FIXED | KERNELS | {"input_0", "projection"}

    def measured(name, values):
        lower, upper = seen.get(name, (0.0, 0.0))
        seen[name] = min(lower, values.min()), max(upper, values.max())
        return rounding(found)(name, values) if name in rounded_at_once else values

    reference(model.layers[0], x, measured)
    assert set(found) == set(seen)
    for name in set(seen) - FIXED - KERNELS:
        np.testing.assert_allclose(found[name], seen[name], atol=1e-5)
    assert found["candidate"] == (-1.0, 127 / 128)

    model(x, training=True)  # rounded now: ranges move by 1 % of rounding errors
    for name, (lower, upper) in ranges(model).items():
        step = (upper - lower) / 255
        np.testing.assert_allclose((lower, upper), found[name], atol=0.05 * step)
    assert ranges(model)["output"] != found["output"]


@every_cell
def test_predictions_are_those_of_rounded_equations(cell):
    make, reference = CELLS[cell]
    model = model_of(make(UNITS))
    model(images(64, SHAPE), training=True)
    found, x = ranges(model), images(64, SHAPE, seed=2)
    predicted = model.predict(x, verbose=0)
    expected = reference(model.layers[0], x, rounding(found))
    lower, upper = found["output"]
    steps = (predicted - expected) * 255 / (upper - lower)
    assert np.mean(abs(steps) < 0.5) > 0.95
    assert abs(steps).max() < 2.5


FILES = {
    "LSTM": lambda x: layers.LSTM(4)(x),
    "stacked": lambda x: layers.Dense(2)(
        layers.GRU(4)(layers.LSTM(4, return_sequences=True)(x))
    ),
    "GRU backwards": lambda x: layers.GRU(4, go_backwards=True, return_sequences=True)(
        layers.Conv1D(4, 3, padding="same", activation="relu")(x)
    ),
    "states": lambda x: layers.LSTM(4, return_state=True, use_bias=False)(x),
    "both directions": lambda x: layers.Bidirectional(layers.LSTM(3))(
        layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    ),
    "joined": lambda x: layers.Concatenate()(layers.LSTM(4, return_state=True)(x)),
    "GRU without bias": lambda x: layers.GRU(4, use_bias=False, unroll=True)(x),
    "twice": lambda x: layers.Add()(
        list(map(layers.GRU(4), (x, layers.Dense(3, "tanh")(x))))
    ),
}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", FILES)
def test_files_have_the_same_integers(kind, tmp_path):
    assert_equals_its_file(learned(FILES[kind], SHAPE), tmp_path)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("cell", CELLS)
def test_files_of_few_bits_have_the_same_integers(cell, tmp_path):
    scheme = QuantizationScheme(kernel_bits=4)
    model = learned(lambda x: CELLS[cell][0](4)(x), SHAPE, scheme)
    assert_equals_its_file(model, tmp_path)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_an_open_batch_has_the_same_integers(tmp_path):
    model, x = learned(FILES["stacked"], SHAPE), images(64, SHAPE, seed=2)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, representative_data=x, batch_size=None)
    assert not report.float_operations
    assert report.outputs[0].largest_difference == 0


@pytest.mark.tensorflow
def test_a_pruned_kernel_is_pruned_in_the_file(tmp_path):
    model = model_of(layers.LSTM(UNITS))
    rng = np.random.default_rng(0)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) < 0.4)
    model(images(64, SHAPE), training=True)
    assert_equals_its_file(model, tmp_path)
    file = Interpreter(str(tmp_path / "model.tflite"))
    stored = {tuple(x["shape"]): x["index"] for x in file.get_tensor_details()}
    for kernel in kernels(model):
        integers = file.get_tensor(stored[kernel.mask.shape[::-1]])
        assert integers.dtype == "int8"
        assert not integers[~kernel.mask.T].any()
        assert np.mean(integers[kernel.mask.T] != 0) > 0.9


def functional(layer, shape=SHAPE):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def with_initial_state():
    inputs, state = keras.Input(SHAPE), keras.Input((4,))
    outputs = layers.GRU(4, name="cell")(inputs, initial_state=state)
    return keras.Model([inputs, state], outputs)


IN_FLOAT = {
    "with tanh and sigmoid": lambda: functional(layers.LSTM(4, "relu", name="cell")),
    "none is masked": lambda: keras.Sequential(
        [keras.Input(SHAPE), layers.Masking(), layers.LSTM(4, name="cell")]
    ),
    "a fixed number of 3": lambda: functional(layers.GRU(4, name="cell"), (None, 3)),
    "number of 3 on": lambda: functional(layers.GRU(4, name="cell"), (2, 3)),
    "if states begin at zero": with_initial_state,
    "if their outputs are concatenated": lambda: functional(
        layers.Bidirectional(layers.LSTM(4), merge_mode="sum", name="cell")
    ),
    "with reset_after": lambda: functional(layers.GRU(4, reset_after=0, name="cell")),
}


@pytest.mark.parametrize("reason", IN_FLOAT)
def test_what_stays_in_float_is_announced(reason):
    model = IN_FLOAT[reason]()
    report = prepare(model, quantize=True)
    assert any("cell (" in x and reason in x for x in report.floating)
    assert not any(row.layer == "cell" for row in quantization_report(model).rows)


@pytest.mark.slow
@every_cell
def test_trains_saves_loads_clones_and_strips(cell, tmp_path):
    make, _ = CELLS[cell]
    keras.utils.set_random_seed(0)
    recurrent = make(8, dropout=0.1, recurrent_dropout=0.1)
    model = keras.Sequential([keras.Input(SHAPE), recurrent, layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse")
    x = images(256, SHAPE)
    y = x[:, :, 0].mean(1)
    callbacks = [QuantizationAwareTraining()]
    history = model.fit(x, y, epochs=12, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    found = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    for copy in (keras.saving.load_model(tmp_path / "model.keras"), clone(model)):
        np.testing.assert_array_equal(copy.predict(x, verbose=0), found)
        assert quantization_report(copy) == quantization_report(model)
    assert keeps_state(model)  # so pools accept it
    plain = strip(model).predict(x, verbose=0)
    assert 0 < np.abs(plain - found).mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("observer", [MovingAverage(), LearnedStepSize()])
def test_directions_round_within_one_range(observer, tmp_path):
    layer = layers.Bidirectional(layers.GRU(4, return_sequences=True))
    model = functional(layer)
    prepare(model, quantize=QuantizationScheme(observer))
    set_quantizers(model, True)
    x = images(32, SHAPE)
    model(x, training=True)
    found = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    for copy in (keras.saving.load_model(tmp_path / "model.keras"), clone(model)):
        np.testing.assert_array_equal(copy.predict(x, verbose=0), found)
    first, second = (
        (row.lower, row.upper)
        for row in quantization_report(model).rows
        if row.tensor == "output" and row.layer != layer.name
    )
    shares = isinstance(observer, MovingAverage)
    assert (first == second) == shares
    if shares:
        np.testing.assert_allclose(first, (min(found.min(), 0), found.max()), atol=0.01)


def test_a_mask_at_run_time_is_respected():
    model = model_of(layers.LSTM(UNITS))
    x, mask = images(8, SHAPE), np.arange(STEPS) < 3
    model(x, training=True)
    masked = model.layers[0](x, mask=np.tile(mask, (8, 1)))
    shorter = strip(model).layers[0](x[:, :3])
    np.testing.assert_allclose(array(masked), array(shorter), atol=0.02)
