import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from model_cases import (
    MODELS,
    SHAPE,
    images,
    nested,
    outputs,
    residual,
    resnet,
    sequential,
    subclassed,
)

from keras_micronets import _keras_private
from keras_micronets.edge.member import Member
from keras_micronets.export import export_tflite
from keras_micronets.export import make_file as make_file_module
from keras_micronets.export.flatbuffer import read_flatbuffer
from keras_micronets.export.tflite_model import TFLiteModel
from keras_micronets.layers import (
    KernelQuantizer,
    kernels,
    prepare,
    quantized_share,
    set_quantizers,
    strip,
)
from keras_micronets.layers.quantization import quantizers

pytestmark = pytest.mark.tensorflow

INTEGERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"}
INTEGERS |= {"SOFTMAX", "RESHAPE", "MAX_POOL_2D"}


def learned(model, x=None, sparsity=0.5):
    """Prepare, prune at random and learn the ranges."""
    prepare(model, quantize=True)
    rng = np.random.default_rng(0)
    for kernel in kernels(model):
        kernel.set_mask(rng.random(kernel.mask.shape) >= sparsity)
    set_quantizers(model, True)
    model(images(64) if x is None else x, training=True)
    return model


def dtypes(path):
    interpreter = Interpreter(str(path))
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    return [np.dtype(end["dtype"]).name for end in ends]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("kind", ["sequential", "residual", "nested"])
def test_learned_ranges(kind, path):
    model = learned(MODELS[kind]())
    report = export_tflite(model, path)
    assert report.calibration == "learned"
    assert report.quantization == "int8"
    assert not report.float_operations
    assert set(report.operations) <= INTEGERS
    assert report.largest_difference <= 1
    assert report.share_within_one_step == 1.0
    assert report.n_masked == sum(k.size - int(k.mask.sum()) for k in kernels(model))
    assert report.n_masked <= report.n_zeros < report.n_weights
    assert report.n_weights == sum(kernel.size for kernel in kernels(model))
    assert report.n_bytes == path.stat().st_size
    assert report.gzip_bytes < report.n_bytes
    assert dtypes(path) == ["int8", "int8"]


def test_operations_of_a_residual_network(path):
    report = export_tflite(learned(residual()), path)
    expected = {"CONV_2D": 2, "ADD": 1, "MEAN": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1}
    assert report.operations == expected


def test_ranges_are_the_learned_ones(path):
    model = learned(sequential(), x=3 * images(64))
    export_tflite(model, path, representative_data=images())
    scale, zero_point = Interpreter(str(path)).get_input_details()[0]["quantization"]
    quantizer = model.get_layer("conv").input_0_quantizer
    lower, upper = (float(bound) for bound in quantizer.bounds())
    assert scale == pytest.approx((upper - lower) / 255)
    assert abs(zero_point - (-128 - lower / scale)) <= 0.5


def test_output_of_a_softmax_has_the_scale_of_the_device(path):
    export_tflite(learned(sequential()), path)
    end = Interpreter(str(path)).get_output_details()[0]
    assert end["quantization"] == (1 / 256, -128)


@pytest.mark.parametrize("make", [residual, lambda: strip(learned(residual()))])
def test_representative_data(make, path):
    report = export_tflite(make(), path, representative_data=images(64))
    assert report.calibration == "representative data"
    assert not report.float_operations
    assert dtypes(path) == ["int8", "int8"]
    assert report.top1_agreement > 0.8
    assert report.n_compared == make_file_module.N_COMPARED


def test_representative_data_with_masks_but_no_ranges(path):
    model = residual()
    prepare(model)
    kernel = kernels(model)[0]
    kernel.set_mask(np.zeros(kernel.mask.shape, bool))
    report = export_tflite(model, path, representative_data=images(64))
    assert report.calibration == "representative data"
    assert report.n_masked == kernel.size <= report.n_zeros


@pytest.mark.parametrize(
    ("quantization", "tolerance"), [(None, 1e-5), ("float16", 1e-2), ("dynamic", 0.1)]
)
@pytest.mark.parametrize("quantised", [False, True])
def test_other_quantizations(quantization, tolerance, quantised, path):
    model = learned(residual()) if quantised else residual()
    report = export_tflite(model, path, quantization=quantization)
    assert report.quantization == quantization
    assert report.calibration is None
    assert dtypes(path) == ["float32", "float32"]
    assert report.share_within_one_step is None
    assert report.float_operations
    assert report.largest_difference <= tolerance
    assert report.top1_agreement > 0.9


def test_float_file_has_no_quantisers(path):
    model = learned(residual())
    export_tflite(model, path, quantization=None)
    x = images(16, seed=5)
    set_quantizers(model, False)
    expected = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(Member(path).predict_raw(x), expected, atol=1e-5)


def test_sizes(tmp_path):
    model = residual(filters=32)
    sizes = {
        kind: export_tflite(
            model,
            tmp_path / f"{kind}.tflite",
            quantization=kind,
            representative_data=images(16),
        ).n_bytes
        for kind in (None, "float16", "dynamic", "int8")
    }
    assert sizes[None] > sizes["float16"] > sizes["dynamic"]
    assert sizes[None] > 2 * sizes["int8"]


def test_zeros_reduce_the_gzipped_size(tmp_path):
    full, sparse = (
        export_tflite(
            learned(residual(filters=64), sparsity=sparsity), tmp_path / "model.tflite"
        )
        for sparsity in (0.0, 0.9)
    )
    assert sparse.gzip_bytes < 0.6 * full.gzip_bytes
    assert sparse.n_zeros > 0.89 * sparse.n_weights


def test_model_stays_unchanged(path):
    model = learned(residual())
    before = keras.ops.convert_to_numpy(model(images()))
    export_tflite(model, path)
    assert quantized_share(model) == 1.0
    np.testing.assert_array_equal(model(images()), before)


def test_makes_folders_and_leaves_no_partial_file(tmp_path):
    folder = tmp_path / "some" / "folder"
    export_tflite(learned(sequential()), str(folder / "model.tflite"))
    assert [file.name for file in folder.iterdir()] == ["model.tflite"]


def test_report_prints(path):
    text = str(export_tflite(learned(residual()), path))
    for expected in (str(path), "int8, ranges learned", "2 CONV_2D", "of 64 samples"):
        assert expected in text
    assert "in float       none" in text
    text = str(export_tflite(residual(), path, quantization="dynamic"))
    assert "dynamic" in text
    assert "steps" not in text


def test_subclassed_model(path):
    report = export_tflite(learned(subclassed()), path)
    assert report.largest_difference <= 1
    assert report.operations["CONV_2D"] == report.operations["FULLY_CONNECTED"] == 1


def two_by_two(inputs_type=list, outputs_type=list):
    """Two inputs and two outputs whose alphabetical order is not theirs."""
    inputs = [keras.Input((6,), name="wide"), keras.Input((4,), name="small")]
    x = keras.layers.Add()([keras.layers.Dense(8)(one) for one in inputs])
    x = keras.layers.ReLU()(x)
    outputs = [keras.layers.Dense(3, name=name)(x) for name in ("left", "box")]
    return keras.Model(
        {t.name: t for t in inputs} if inputs_type is dict else inputs,
        dict(zip(("left", "box"), outputs, strict=True))
        if outputs_type is dict
        else outputs,
    )


def two_arrays(n=64):
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(size=(n, size), scale=scale).astype("float32")
        for name, size, scale in (("wide", 6, 1.0), ("small", 4, 5.0))
    }


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize(
    ("quantization", "tolerance"), [(None, 1e-5), ("int8", 3), ("dynamic", 0.2)]
)
def test_several_inputs_and_outputs(kind, quantization, tolerance, path):
    report = export_tflite(
        two_by_two(kind, kind),
        path,
        quantization=quantization,
        representative_data=two_arrays(),
    )
    expected = ["left", "box"] if kind is list else ["box", "left"]
    assert [output.name for output in report.outputs] == expected
    for output in report.outputs:
        assert output.largest_difference <= tolerance
        assert output.top1_agreement > 0.9
    assert bool(report.float_operations) == (quantization != "int8")


def test_several_inputs_and_outputs_with_learned_ranges(path):
    model = two_by_two()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model(list(two_arrays().values()), training=True)
    for data in (None, two_arrays()):
        report = export_tflite(model, path, representative_data=data)
        assert [output.largest_difference for output in report.outputs] <= [1, 1]
        assert not report.float_operations


def test_each_output_is_compared_with_its_own(path, monkeypatch):
    real = TFLiteModel.run
    monkeypatch.setattr(TFLiteModel, "run", lambda self, x: real(self, x)[::-1])
    report = export_tflite(two_by_two(), path, quantization=None)
    assert all(output.largest_difference > 0.01 for output in report.outputs)


def interpreter_of_batch(path, n):
    interpreter = Interpreter(str(path))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, (n, *SHAPE), strict=True)
    interpreter.allocate_tensors()
    return interpreter, index


OF_AN_OPEN_BATCH = {"sequential": {"SHAPE", "STRIDED_SLICE", "PACK"}, "residual": set()}


@pytest.mark.parametrize("kind", OF_AN_OPEN_BATCH)
def test_open_batch(kind, path):
    model = learned(MODELS[kind]())
    fixed = export_tflite(model, path)
    steps = Member(path).predict_raw(images(7))
    report = export_tflite(model, path, batch_size=None)
    assert report.largest_difference <= 1
    assert not report.float_operations
    assert set(report.operations) - set(fixed.operations) == OF_AN_OPEN_BATCH[kind]
    for n in (1, 3, 7):
        interpreter, index = interpreter_of_batch(path, n)
        info = TFLiteModel(path.read_bytes(), "model").inputs[0]
        interpreter.set_tensor(index, info.quantize(images(7)[:n]))
        interpreter.invoke()
        output = interpreter.get_output_details()[0]["index"]
        np.testing.assert_array_equal(interpreter.get_tensor(output), steps[:n])
    np.testing.assert_array_equal(Member(path).predict_raw(images(7)), steps)


@pytest.mark.parametrize("quantised", [True, False])
def test_batches_of_a_fixed_size(quantised, path):
    model = learned(sequential()) if quantised else sequential()
    report = export_tflite(model, path, batch_size=5, representative_data=images(17))
    assert report.n_compared == 17
    assert report.share_within_one_step >= (1 if quantised else 0.8)
    shape = Interpreter(str(path)).get_input_details()[0]["shape"]
    assert tuple(shape) == (5, *SHAPE)
    assert Member(path).predict_raw(images(7)).shape == (7, 3)


def test_representative_batches(path, tmp_path):
    model = residual()
    data = [(images(64)[i : i + 9], None) for i in range(0, 64, 9)]
    export_tflite(model, path, representative_data=data)
    export_tflite(model, tmp_path / "other.tflite", representative_data=images(64))
    assert path.read_bytes() == (tmp_path / "other.tflite").read_bytes()


def with_integers():
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 4)(inputs)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    return keras.Model(inputs, x)


@pytest.mark.parametrize("quantization", ["int8", "dynamic", None])
def test_integer_inputs(quantization, path):
    data = np.random.default_rng(0).integers(0, 7, (50, 5))
    model = with_integers()
    report = export_tflite(
        model, path, quantization=quantization, representative_data=data
    )
    assert report.top1_agreement > 0.9
    assert dtypes(path)[0] == "int32"
    if quantization != "int8":
        export_tflite(model, path, quantization=quantization)


def test_latency_and_weights(path):
    report = export_tflite(learned(residual()), path)
    assert 0 < report.latency < 100
    assert report.weight_bytes == {"int8": report.n_weights}
    report = export_tflite(residual(), path, quantization="float16")
    assert report.weight_bytes == {"float16": 2 * residual_weights()}
    assert report.n_weights == report.n_zeros == 0


def residual_weights():
    return 3 * 3 * (3 * 4 + 4 * 4) + 4 * 3


def with_nan():
    data = images()
    data[3, 2, 1, 0] = np.nan
    return data


BAD = {
    "suffix": (sequential, {}, "model.keras", r"ends in \.tflite"),
    "quantization": (sequential, {"quantization": "int4"}, None, r"'int4'"),
    "no data for int16": (
        lambda: learned(sequential()),
        {"quantization": "int16"},
        None,
        r"those learned in training are for int8",
    ),
    "no data": (sequential, {}, None, r"learned ranges, or representative data"),
    "shape": (
        sequential,
        {"representative_data": images(shape=(5, 6, 3))},
        None,
        r"\(samples, 6, 6, 3\)\. Received: shape \(32, 5, 6, 3\)",
    ),
    "one sample": (
        sequential,
        {"representative_data": images()[0]},
        None,
        r"Received: shape \(6, 6, 3\)",
    ),
    "empty": (sequential, {"representative_data": images(0)}, None, r"shape \(0, 6"),
    "nan": (sequential, {"representative_data": with_nan()}, None, r"NaN"),
    "not built": (
        lambda: keras.Sequential([keras.layers.Dense(2)]),
        {"quantization": None},
        None,
        r"not built",
    ),
    "batch": (sequential, {"batch_size": 0}, None, r"batch_size=0"),
    "batches": (sequential, {"batch_size": "all"}, None, r"batch_size='all'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_writes_nothing(case, tmp_path):
    make, arguments, name, message = BAD[case]
    path = tmp_path / (name or "model.tflite")
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=message):
        export_tflite(make(), path, **arguments)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_path_of_a_folder(tmp_path):
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        export_tflite(sequential(), tmp_path / "model.tflite", quantization=None)


def test_outputs_that_are_not_finite(path):
    path.write_bytes(b"older")
    model = sequential()
    head = model.get_layer("head")
    head.kernel.assign(np.full(head.kernel.shape, 3e38))  # finite, but its sums are not
    with pytest.raises(ValueError, match="finite outputs"):
        export_tflite(model, path, quantization=None)
    assert path.read_bytes() == b"older"


def test_converter_that_fails_writes_nothing(path):
    path.write_bytes(b"older")
    layer = keras.layers.Conv2DTranspose(2, 3, dilation_rate=2)  # LiteRT has none
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    message = r"'sequential', which it rejects: [\s\S]*Conv2DBackpropInput"
    with pytest.raises(ValueError, match=message):
        export_tflite(model, path, quantization=None)
    assert path.read_bytes() == b"older"


def test_warns_when_the_file_is_not_the_simulation(path, monkeypatch):
    model = learned(sequential())
    real = TFLiteModel.run
    monkeypatch.setattr(
        TFLiteModel, "run", lambda self, x: [y // 2 for y in real(self, x)]
    )
    with pytest.warns(UserWarning, match="differs from its simulation"):
        report = export_tflite(model, path)
    assert report.share_within_one_step < 1


@pytest.mark.parametrize("kind", ["sequential", "residual", "nested"])
def test_int16_is_finer_than_int8(kind, path):
    x, model, errors = images(64), MODELS[kind](), {}
    for quantization in ("int8", "int16"):
        report = export_tflite(
            model, path, quantization=quantization, representative_data=x
        )
        difference = Member(path).predict(x) - outputs(model, x)
        errors[quantization] = np.abs(difference).max()
        assert dtypes(path) == [quantization, quantization]
        assert not report.float_operations
        assert report.weight_bytes == {"int8": report.n_weights}
    assert report.calibration == "representative data"
    assert errors["int16"] < 0.7 * errors["int8"]  # the weights are as coarse
    assert report.top1_agreement == 1.0


def test_int16_ignores_the_quantisers_of_int8(path):
    model = learned(residual())
    report = export_tflite(
        model, path, quantization="int16", representative_data=images(64)
    )
    assert report.calibration == "representative data"
    assert report.n_masked <= report.n_zeros
    set_quantizers(model, False)
    difference = Member(path).predict(images(8)) - outputs(model, images(8))
    assert np.abs(difference).max() < 1e-2


@pytest.mark.parametrize(("bits", "stored"), [(2, 4), (4, 4), (5, 8)])
def test_kernels_of_low_bit_width(bits, stored, path):
    model = learned(residual(filters=5))
    for quantizer in quantizers(model):
        if isinstance(quantizer, KernelQuantizer):
            quantizer.bits = bits
    report = export_tflite(model, path)
    n_weights = sum(kernel.size for kernel in kernels(model))
    assert report.n_weights == n_weights
    # Four-bit weights are packed in pairs, each kernel by itself.
    assert set(report.weight_bytes) == {f"int{stored}"}
    assert 0 <= report.weight_bytes.total() - n_weights * stored / 8 < 2
    assert f"bytes int{stored}" in str(report)
    assert report.n_masked <= report.n_zeros < n_weights
    assert report.largest_difference == 0
    weights = read_flatbuffer(path.read_bytes()).int8_weights.values()
    assert max(len(np.unique(values)) for values in weights) == 2**bits - 1


def scaled(model, factor, *, of=("stem", "depthwise", "head")):
    for layer in _keras_private.flatten_layers(model):
        if layer.name in of:
            kernel, *others = layer.get_weights()
            layer.set_weights([kernel * factor, *others])
    return model


def with_norm(gamma, beta=1.0):
    model = nested()
    norm = model.get_layer("inner").get_layer("bn")
    norm.gamma.assign([gamma, gamma, 1.0, 1.0])
    norm.beta.assign(4 * [beta])
    return model


ODD = {
    "dead": lambda: scaled(nested(), 0.0),
    "dead channels": lambda: with_norm(0.0),
    "dying channels": lambda: with_norm(1e-12),
    "huge": lambda: scaled(nested(), 1e12, of=("head",)),
    "tiny": lambda: scaled(nested(), 1e-12),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("data", [images(64), None])
@pytest.mark.slow
def test_extreme_weights_make_a_valid_file(case, data, path):
    model = ODD[case]() if data is not None else learned(ODD[case](), sparsity=0)
    report = export_tflite(model, path, representative_data=data)
    assert report.largest_difference <= (1 if data is None else 3)
    assert report.top1_agreement > 0.9


def test_constant_activations(path):
    model = learned(nested(), x=np.zeros_like(images()))
    assert export_tflite(model, path).largest_difference <= 1
    zeros = np.zeros_like(images())
    report = export_tflite(nested(), path, representative_data=zeros)
    assert report.largest_difference <= 1


def test_a_file_that_litert_cannot_load_is_not_written(path):
    zeros = np.zeros_like(images())
    with pytest.raises(ValueError, match="LiteRT can run a file"):
        export_tflite(ODD["huge"](), path, representative_data=zeros)
    assert not path.exists()


def with_bias(value):
    model = scaled(sequential(), 1e-12, of=("conv",))
    model.get_layer("conv").bias.assign([value, value, 1.0, 1.0])
    return model


def test_biases_that_overflow(path):
    with pytest.raises(ValueError, match=r"2 of 'sequential.*' that do not"):
        export_tflite(learned(with_bias(1e6), sparsity=0), path)
    assert not path.exists()
    negative = learned(with_bias(-1e6), sparsity=0)
    assert (
        export_tflite(negative, path).largest_difference <= 1
    )  # the ReLU hides the overflow


def test_quantisers_without_data(path):
    model = residual()
    prepare(model, quantize=True)
    set_quantizers(model, True)
    with pytest.raises(ValueError, match="has seen no data"):
        export_tflite(model, path)
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("quantization", ["int8", None])
def test_weights_that_are_not_finite(value, quantization, path):
    model = scaled(residual(), value, of=("conv2",))
    with pytest.raises(ValueError, match=r"finite\. Received: .* in conv2/kernel"):
        export_tflite(
            model, path, quantization=quantization, representative_data=images()
        )
    assert not path.exists()


@pytest.mark.parametrize("factor", [1e12, 1e-12])
def test_kernels_that_float16_cannot_hold(factor, path):
    model = scaled(residual(), factor, of=("conv2",))
    with pytest.raises(ValueError, match=r"float16 can hold.* conv2/kernel with"):
        export_tflite(model, path, quantization="float16")
    model = scaled(residual(), 0.0, of=("conv2",))
    assert export_tflite(model, path, quantization="float16").top1_agreement == 1.0


def trained(model, digits, *, from_logits=False, epochs=(6, 3)):
    (x, y), _, (x_test, y_test) = digits
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=epochs[0], verbose=0)
    prepare(model, quantize=True)
    set_quantizers(model, True)
    model.fit(x, y, epochs=epochs[1], verbose=0)
    return model.evaluate(x_test, y_test, verbose=0)[1]


def compared_on_test_digits(model, digits, path, monkeypatch):
    x_test = digits[2][0]
    monkeypatch.setattr(make_file_module, "N_COMPARED", len(x_test))
    from_logits = model.layers[-1].activation is keras.activations.linear
    accuracy = trained(model, digits, from_logits=from_logits)
    report = export_tflite(model, path, representative_data=x_test)
    print(f"\naccuracy {accuracy:.3f}\n{report}\n{report.share_within_one_step:.4f}")
    assert accuracy > 0.85
    assert not report.float_operations
    assert report.n_compared == len(x_test)
    return report


@pytest.mark.slow
def test_trained_logits_are_within_one_step(digits, small_cnn, path, monkeypatch):
    model = small_cnn(activation=None)
    report = compared_on_test_digits(model, digits, path, monkeypatch)
    assert report.largest_difference <= 1
    assert report.top1_agreement == 1.0


# Biases are rounded in the file only, which sometimes moves a value by a step;
# one step of the logits is several of the finer steps of a softmax.
steep = pytest.mark.filterwarnings(
    "ignore:The int8 file of .* differs from its simulation"
)


@steep
@pytest.mark.slow
def test_trained_probabilities(digits, small_cnn, path, monkeypatch):
    model = small_cnn()
    report = compared_on_test_digits(model, digits, path, monkeypatch)
    assert report.largest_difference <= steps_of_a_softmax(model)
    assert report.share_within_one_step >= 0.99
    assert report.top1_agreement == 1.0


def steps_of_a_softmax(model):
    """Return the largest change of a probability, in steps, by one step of a logit."""
    lower, upper = model.layers[-1].preactivation_quantizer.bounds()
    slope = 1 / 2  # one logit a step up, another a step down
    return float(upper - lower) / 255 * slope * 256 + 1


@steep
@pytest.mark.parametrize(
    ("softmax", "within"),
    [(False, 0.99), (True, 0.97)],
    ids=["logits", "softmax"],
)
@pytest.mark.slow
def test_trained_resnet(softmax, within, digits, path, monkeypatch):
    """A difference of one step in a convolution grows from layer to layer."""
    model = resnet(softmax=softmax)
    report = compared_on_test_digits(model, digits, path, monkeypatch)
    expected = {"CONV_2D": 9, "ADD": 3, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert report.operations == {**expected, **({"SOFTMAX": 1} if softmax else {})}
    assert report.share_within_one_step >= within
    assert report.top1_agreement >= 0.98
