from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tiny_tflite import CLASSES, SHAPE, samples, tiny_tflite

from keras_micronets import EnsemblePruner
from keras_micronets.edge import EnsembleRunner, Member, Preprocessing
from keras_micronets.edge.operators import pack
from keras_micronets.ensemble.export import choose_format
from keras_micronets.export import BundleMember, write_bundle, write_single
from keras_micronets.export.bundle import single_file

RULES = {"mean": None, "logit": None, "vote": None, "weights": [0.5, 0.3, 0.2]}


def make(seed=0, **options):
    softmax = options.get("softmax", True)
    model = tiny_tflite(seed, **options)
    return BundleMember(f"m{seed}", model, from_logits=not softmax)


def changed(member, change):
    """Return the member after its flatbuffer was changed."""
    model = schema.ModelT.InitFromPackedBuf(member.model)
    change(model)
    return BundleMember(member.name, pack(model), member.from_logits)


def finer_input(member):
    """Quantise the input slightly finer, as after calibration on other data."""

    def change(model):
        graph = model.subgraphs[0]
        quantization = graph.tensors[graph.inputs[0]].quantization
        quantization.scale = quantization.scale * np.float32(0.995)

    return changed(member, change)


def off_the_edges(x, members):
    """Move values away from the midpoint between two steps of a member."""
    x = x.copy()
    for member in members:
        scale = Member(member.model).input_quantization[0]
        if scale:
            x[np.abs(x / scale % 1 - 0.5) < 0.001] = 0
    return x


def predictions(tmp_path, members, x, **arguments):
    """Return the predictions of the single file and of the bundle."""
    path = write_single(tmp_path / "single.tflite", members, **arguments)
    with EnsembleRunner(
        write_bundle(tmp_path / "bundle", members, **arguments)
    ) as runner:
        return Member(path).predict_raw(x), runner.predict(x)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("int8", [True, False])
def test_predicts_as_the_bundle_does(tmp_path, int8, softmax, rule):
    members = [make(seed, int8=int8, softmax=softmax) for seed in range(3)]
    arguments = {"combination": rule, "weights": RULES[rule]}
    single, bundle = predictions(tmp_path, members, samples(100), **arguments)
    assert Member(tmp_path / "single.tflite").input_dtype == (
        "int8" if int8 else "float32"
    )
    # A few float32 roundings, from another order of sums; a step of int8 is 4e-3.
    np.testing.assert_allclose(single, bundle, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", ["mean", "logit", "weights"])
@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.8, 20.0])
def test_temperature_is_part_of_the_file(tmp_path, rule, temperature):
    members = [make(seed, softmax=seed != 1) for seed in range(3)]
    arguments = {"combination": rule, "weights": RULES[rule]}
    plain, _ = predictions(tmp_path, members, samples(100), **arguments)
    arguments["temperature"] = temperature
    single, bundle = predictions(tmp_path, members, samples(100), **arguments)
    np.testing.assert_allclose(single, bundle, atol=1e-5, rtol=0)
    powers = np.maximum(plain, 1e-7).astype("float64") ** (1 / temperature)
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(single, expected, atol=2e-5, rtol=0)
    assert np.abs(single - plain).max() > 0.05


@pytest.mark.parametrize("n", [1, 2, 8])
def test_one_member_and_many(tmp_path, n):
    members = [make(seed) for seed in range(n)]
    single, bundle = predictions(tmp_path, members, samples(50))
    np.testing.assert_allclose(single, bundle, atol=1e-6, rtol=0)
    size = (tmp_path / "single.tflite").stat().st_size
    assert size < sum(len(member.model) for member in members) + 2_000


def test_equal_constants_are_stored_once(tmp_path):
    member = make(int8=False)
    copies = [BundleMember(name, member.model) for name in "abcd"]
    path = write_single(tmp_path / "single.tflite", copies)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    data = [b"" if b.data is None else b.data.tobytes() for b in model.buffers]
    assert len(set(data)) == len(data)
    assert data[0] == b""
    assert len({tensor.name for tensor in model.subgraphs[0].tensors}) == len(
        model.subgraphs[0].tensors
    )


@pytest.mark.parametrize("batch", [4, None])
def test_batches(tmp_path, batch):
    members = [make(seed, int8=False, batch=batch) for seed in range(2)]
    single, bundle = predictions(tmp_path, members, samples(10))
    np.testing.assert_allclose(single, bundle, atol=1e-6, rtol=0)


def test_an_open_batch_can_be_resized(tmp_path):
    members = [make(seed, int8=False, batch=None) for seed in range(2)]
    _, bundle = predictions(tmp_path, members, samples(7))
    interpreter = Interpreter(str(tmp_path / "single.tflite"))
    runner = interpreter.get_signature_runner()
    out = runner(inputs=samples(7))
    np.testing.assert_allclose(out["probabilities"], bundle, atol=1e-6, rtol=0)


def test_members_with_different_quantisation(tmp_path):
    members = [
        make(0),
        finer_input(make(1)),
        make(2, int8=False),
        make(3, softmax=False),
    ]
    x = off_the_edges(samples(100), members)
    single, bundle = predictions(tmp_path, members, x)
    assert Member(tmp_path / "single.tflite").input_dtype == "float32"
    np.testing.assert_allclose(single, bundle, atol=1e-6, rtol=0)


@pytest.mark.parametrize("int8", [True, False])
def test_preprocessing_becomes_part_of_the_file(tmp_path, int8):
    members = [make(seed, int8=int8) for seed in range(2)]
    preprocessing = Preprocessing(mean=(120.0, 130.0), scale=(50.0, 60.0))
    x = off_the_edges(samples(100), members) * preprocessing.scale + preprocessing.mean
    single, bundle = predictions(
        tmp_path, members, np.float32(x), preprocessing=vars(preprocessing)
    )
    np.testing.assert_allclose(single, bundle, atol=1e-6, rtol=0)


def test_integers_are_those_of_the_members(tmp_path):
    members = [make(seed) for seed in range(2)]
    path = write_single(tmp_path / "single.tflite", members)
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    scale, zero_point = detail["quantization"]
    tensors = {t["name"]: t["index"] for t in interpreter.get_tensor_details()}
    loaded = [Member(member.model) for member in members]
    (output,) = Interpreter(model_content=members[0].model).get_output_details()
    for x in samples(20):
        steps = np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127)
        interpreter.set_tensor(detail["index"], steps[None].astype("int8"))
        interpreter.invoke()
        for member, alone in zip(members, loaded, strict=True):
            raw = interpreter.get_tensor(tensors[f"{member.name}/{output['name']}"])
            np.testing.assert_array_equal(raw, alone.predict_raw(x[None]))


def test_constants_are_those_of_the_members(tmp_path):
    members = [make(seed) for seed in range(2)]
    content = write_single(tmp_path / "single.tflite", members).read_bytes()
    for member in members:
        for buffer in schema.ModelT.InitFromPackedBuf(member.model).buffers[:9]:
            assert buffer.data is None or buffer.data.tobytes() in content


def test_the_compiled_model_api(tmp_path):
    members = [make(seed, int8=False) for seed in range(2)]
    single, _ = predictions(tmp_path, members, samples(1))
    model = CompiledModel.from_file(str(tmp_path / "single.tflite"))
    assert model.get_signature_list() == {
        "serving_default": {"inputs": ["inputs"], "outputs": ["probabilities"]}
    }
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(samples(1))
    model.run_by_index(0, inputs, outputs)
    received = outputs[0].read(CLASSES, np.float32)
    np.testing.assert_allclose(received[None], single, atol=1e-6)


def variable(model):
    model.subgraphs[0].tensors[-2].isVariable = True


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda: [], "unique names"),
        (lambda: [make(), make()], "unique names"),
        (lambda: [make(), make(1, shape=(5, 5, 2))], "one input shape"),
        (
            lambda: [make(int8=False), make(1, int8=False, batch=4)],
            "one input shape, batch included",
        ),
        (lambda: [BundleMember("m", Path("absent.tflite"))], "absent.tflite"),
        (lambda: [BundleMember("m", b"no model")], r"Expected a \.tflite model"),
    ],
)
def test_members_that_do_not_fit_together(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        write_single(tmp_path / "single.tflite", members())
    assert [*tmp_path.iterdir()] == []


def test_variables_and_several_graphs(tmp_path, monkeypatch):
    real = schema.ModelT.InitFromPackedBuf

    def several(model):
        model.subgraphs = model.subgraphs * 2

    for change, message in ((variable, "variables"), (several, "control flow")):

        def read(content, change=change):
            model = real(content)
            change(model)
            return model

        monkeypatch.setattr(schema.ModelT, "InitFromPackedBuf", read)
        with pytest.raises(ValueError, match=f"{message}.*Export a bundle"):
            write_single(tmp_path / "single.tflite", [make()])
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_predicts_otherwise_is_not_written(tmp_path, monkeypatch):
    path = write_single(tmp_path / "single.tflite", [make(0)])
    before = path.read_bytes()
    monkeypatch.setattr(single_file, "add_combination", lambda _, p, **arguments: p[0])
    with pytest.raises(ValueError, match=r"differs by 0\.\d+ from.*export a bundle"):
        write_single(path, [make(0), make(1)])
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "arguments",
    [
        {"combination": "median"},
        {"weights": [1.0]},
        {"temperature": 0.0},
        {"combination": "vote", "temperature": 2.0},
    ],
)
def test_bad_rules(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"Expected (a rule|weights with|.*temper)"):
        write_single(tmp_path / "single.tflite", [make()], **arguments)
    with pytest.raises(ValueError, match=r"Expected (a rule|weights with|.*temper)"):
        write_bundle(tmp_path / "bundle", [make()], **arguments)
    assert not [*tmp_path.iterdir()]


def test_bad_path(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        write_single(tmp_path / "bundle", [make()])


def test_formats():
    for path, expected in (("a", "bundle"), ("a.ZIP", "zip"), ("a.tflite", "tflite")):
        assert choose_format(path, None, {}) == expected
        assert choose_format(path, expected, {}, class_names=None) == expected
    assert choose_format("a", "bundle", {}, class_names=["cat"]) == "bundle"
    assert choose_format("a.tflite", "onnx", {"verbose": True}) == "onnx"
    with pytest.raises(ValueError, match=r"ends in \.tflite for format='tflite'"):
        choose_format("a.zip", "tflite", {})
    with pytest.raises(ValueError, match=r"neither \.zip nor \.tflite"):
        choose_format("a.zip", "bundle", {})
    with pytest.raises(TypeError, match="Received: layout"):
        choose_format("a", None, {"layout": "single"})
    with pytest.raises(ValueError, match="Received: format='tflite' and class_names"):
        choose_format("a.tflite", None, {}, class_names=["cat"], evaluation_data=None)


def test_shapes_are_known(tmp_path):
    member = Member(write_single(tmp_path / "single.tflite", [make()]))
    assert (member.input_shape, member.output_shape) == (SHAPE, (CLASSES,))


def test_an_ensemble_of_files(tmp_path):
    learners = {}
    for seed in range(2):
        learners[f"m{seed}"] = tmp_path / f"m{seed}.tflite"
        learners[f"m{seed}"].write_bytes(tiny_tflite(seed))
    ensemble = EnsemblePruner(learners, 2, method="top_k")
    x = samples(20)
    ensemble.prune(x, np.arange(20) % CLASSES, verbose=0)
    path = ensemble.export(tmp_path / "single.tflite")
    predicted = ensemble.predict(x, verbose=0)
    np.testing.assert_allclose(Member(path).predict(x), predicted, atol=1e-6)
    with pytest.raises(ValueError, match="format='tflite' and class_names"):
        ensemble.export(path, class_names=["cat", "dog", "owl"])
