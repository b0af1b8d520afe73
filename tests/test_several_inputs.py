"""Models of several named inputs, from the pool to the device and its commands."""

import json
from pathlib import Path

import jsonschema
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from distributed_cases import served
from PIL import Image
from tiny_tflite import tiny_tflite

import keras_micronets as kmn
from keras_micronets.edge import (
    EnsembleRunner,
    Manifest,
    Member,
    Preprocessing,
    bench,
)
from keras_micronets.edge.cli import main
from keras_micronets.edge.distributed.message import pack_inputs, unpack_inputs
from keras_micronets.edge.inputs import read_files
from keras_micronets.export import BundleMember, write_bundle, write_single

# Other backends convert in another process: test_everywhere.py does that.
pytestmark = pytest.mark.tensorflow

L = keras.layers
IMAGE, WEATHER = (6, 5, 3), (2,)
NAMES = ["calm", "rain", "storm"]
PREPROCESSING = {
    "mean": {"weather": [20.0, 1000.0], "image": 127.5},
    "scale": {"image": 64.0, "weather": (5.0, 10.0)},
}


def raw_inputs(n=40, seed=0):
    rng = np.random.default_rng(seed)
    weather = rng.normal((20, 1000), (5, 10), (n, 2)).astype("float32")
    return {
        "image": rng.integers(0, 256, (n, *IMAGE), "uint8"),
        "weather": weather,
    }


def by_hand(raw):
    """Return the inputs of the members, computed from the raw ones."""
    image = (raw["image"].astype("float32") - np.float32(127.5)) / np.float32(64)
    weather = (raw["weather"] - np.float32([20, 1000])) / np.float32([5, 10])
    return {"image": image, "weather": weather}


def station(seed=0, *, as_dict=False):
    keras.utils.set_random_seed(seed)
    # The order of the inputs differs from that of their names.
    weather, image = (
        keras.Input(WEATHER, name="weather"),
        keras.Input(IMAGE, name="image"),
    )
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu")(image))
    outputs = L.Dense(3, activation="softmax")(L.Concatenate()([x, weather]))
    inputs = {"weather": weather, "image": image} if as_dict else [weather, image]
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    x, y = by_hand(raw_inputs()), np.arange(40) % 3
    models = [station(seed, as_dict=seed == 1) for seed in range(3)]
    pool = kmn.LearnerPool(tmp_path_factory.mktemp("several") / "pool")
    for seed, model in enumerate(models):
        model.fit(x, y, epochs=2, verbose=0)
        pool.add(model, name=f"m{seed}")
    chosen = kmn.EnsemblePruner(pool, 2, method="top_k", combination="weights")
    return chosen.prune(x, y, verbose=0)


@pytest.fixture(scope="module")
def bundle(ensemble, tmp_path_factory):
    x, y = by_hand(raw_inputs()), np.arange(40) % 3
    return ensemble.export(
        tmp_path_factory.mktemp("several") / "station",
        representative_data=x,
        evaluation_data=(x, y),
        early_exit_data=(x, y),
        preprocessing=PREPROCESSING,
        class_names=NAMES,
    )


@pytest.fixture
def runner(bundle):
    with EnsembleRunner(bundle) as runner:
        yield runner


def test_files_have_the_names_of_the_inputs(tmp_path):
    data = by_hand(raw_inputs())
    for as_dict, order in ((False, ["weather", "image"]), (True, ["image", "weather"])):
        path = tmp_path / "station.tflite"
        kmn.export_tflite(station(as_dict=as_dict), path, representative_data=data)
        details = Interpreter(str(path)).get_input_details()
        assert [detail["name"] for detail in details] == order
        member = Member(path)
        assert [*member.input] == order
        assert member.input_shape == {"image": IMAGE, "weather": WEATHER}
        assert member.input_dtype == {"image": "int8", "weather": "int8"}
        scales = {
            name: detail["quantization"]
            for name, detail in zip(order, details, strict=True)
        }
        assert member.input_quantization == scales


def test_names_of_a_signature_come_first(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda left, right: {"y": 2 * left - right},
        input_signature=[
            tf.TensorSpec((1, 2), name=name) for name in ("left", "right")
        ],
    )
    tf.saved_model.save(module, tmp_path, {"serving_default": module.serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    member = Member(converter.convert(), task="regression")
    assert {*member.input} == {"left", "right"}
    x = {"right": np.float32([[1, 2], [0, 1]]), "left": np.float32([[5, 6], [7, 8]])}
    np.testing.assert_array_equal(member.predict(x), [[9, 10], [14, 15]])


def test_a_member_predicts_dictionaries_and_lists(ensemble, tmp_path):
    model, data = ensemble.members_[0], by_hand(raw_inputs(7))
    path = tmp_path / "m.tflite"
    for batch_size in (1, 4):
        kmn.export_tflite(model, path, quantization=None, batch_size=batch_size)
        member = Member(path)
        expected = model.predict(data, verbose=0)
        np.testing.assert_allclose(member.predict(data), expected, atol=1e-5)
        several = [data[name] for name in member.input]
        np.testing.assert_array_equal(member.predict(several), member.predict(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["image"], "a dictionary of arrays with the names"),
        (lambda x: {"image": x["image"]}, r"Received: \['image'\]"),
        (lambda x: x | {"hour": x["weather"]}, "'hour'"),
        (lambda x: [x["weather"]], "a value of type list"),
        (lambda x: x | {"weather": x["weather"][:3]}, "as many samples of each input"),
        (lambda x: x | {"weather": x["weather"][:, :1]}, r"\(samples, 2\)"),
        (lambda x: x | {"weather": x["weather"] * np.nan}, "finite"),
    ],
)
def test_wrong_inputs(runner, change, message):
    with pytest.raises(ValueError, match=message):
        runner.predict(change(raw_inputs(5)))


def test_the_bundle_predicts_as_its_files(runner, ensemble):
    raw = raw_inputs(9, seed=1)
    x = by_hand(raw)
    alone = np.stack([member.predict(x) for member in runner.members])
    np.testing.assert_allclose(runner.predict_members(raw), alone, atol=1e-7)
    weights = runner.manifest.combination.weights
    mean = sum(w * p for w, p in zip(weights, alone, strict=True))
    p = runner.predict(raw, early_exit=False)
    if runner.manifest.combination.temperature == 1:
        np.testing.assert_allclose(p, mean, atol=1e-6)
    np.testing.assert_allclose(p, ensemble.predict(x, verbose=0), atol=0.05)
    assert (p.argmax(-1) == runner.predict_early(raw)[0].argmax(-1)).all()
    assert runner.manifest.class_names == tuple(NAMES)
    assert 0 <= runner.manifest.accuracies["ensemble"] <= 1


def test_parts_within_a_memory_limit(bundle, runner):
    raw = raw_inputs(9)
    models = sum(member.memory for member in runner.members)
    values = 6 * 5 * 3 + 2
    with EnsembleRunner(
        bundle, memory_limit=models + 3 * 20 * values + 200, num_threads=2
    ) as limited:
        assert 1 <= limited._ensemble._max_samples < 9
        np.testing.assert_array_equal(limited.predict(raw), runner.predict(raw))


def test_it_is_measured_and_reloaded(bundle, runner):
    assert bench(runner, repeats=2).throughput > 0
    before = runner.predict(raw_inputs(2))
    runner.reload()
    np.testing.assert_array_equal(runner.predict(raw_inputs(2)), before)


def test_the_manifest_is_read_as_it_was_written(bundle):
    text = (bundle / "manifest.json").read_text("utf-8")
    schema = Path(__file__).parents[1] / "docs" / "bundle.schema.json"
    jsonschema.validate(json.loads(text), json.loads(schema.read_text("utf-8")))
    manifest = Manifest.read(bundle)
    assert {*manifest.members[0].input} == {"image", "weather"}
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.preprocessing.scale["weather"] == (5.0, 10.0)


def test_members_of_other_inputs_are_rejected(ensemble, tmp_path):
    data = by_hand(raw_inputs())
    kmn.export_tflite(station(), tmp_path / "a.tflite", representative_data=data)
    members = [
        BundleMember("a", tmp_path / "a.tflite"),
        BundleMember("b", tiny_tflite(shape=IMAGE)),
    ]
    for write, path in ((write_bundle, "b"), (write_single, "b.tflite")):
        with pytest.raises(ValueError, match="input"):
            write(tmp_path / path, members)


@pytest.mark.parametrize("preprocessing", [None, PREPROCESSING, {"scale": 2.0}])
def test_one_file_for_all_members(ensemble, tmp_path, preprocessing):
    x = by_hand(raw_inputs())
    path = ensemble.export(
        tmp_path / "one.tflite", representative_data=x, preprocessing=preprocessing
    )
    signatures = Interpreter(str(path)).get_signature_list()
    assert {*signatures["serving_default"]["inputs"]} == {"image", "weather"}
    bundle = ensemble.export(
        tmp_path / "b", representative_data=x, preprocessing=preprocessing
    )
    raw = raw_inputs(20, seed=2) if preprocessing is PREPROCESSING else x
    with EnsembleRunner(bundle) as runner:
        # A value between two steps of an input may be rounded to the other one.
        difference = np.abs(Member(path).predict_raw(raw) - runner.predict(raw))
    assert np.median(difference) < 1e-6
    assert difference.max() < 0.02


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"mean": {"image": 1.0}}, IMAGE, "by the names of several inputs"),
        ({"scale": {"hour": 1.0}}, {"image": IMAGE, "weather": WEATHER}, "hour"),
        ({"scale": {"image": 0.0}}, {"image": IMAGE, "weather": WEATHER}, "zeros"),
        ({"mean": (1.0, 2.0)}, {"image": IMAGE, "weather": WEATHER}, "per channel"),
    ],
)
def test_wrong_preprocessing(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**arguments).check(shape)


def test_preprocessing_of_inputs_that_are_not_named():
    scaled = Preprocessing(mean={"a": 1.0}, scale={"b": 2.0})
    x = {"a": np.float32([[3]]), "b": np.float32([[4]]), "c": np.float32([[5]])}
    assert scaled(x) == {"a": [[2]], "b": [[2]], "c": [[5]]}
    assert scaled.inverse(scaled(x)) == x
    assert Preprocessing(1.0, 2.0)(x) == {"a": [[1]], "b": [[1.5]], "c": [[2]]}


def test_nodes_serve_it(bundle, files, runner, capsys):
    folder, raw = files
    with served(bundle, folder) as (broker, gateway):
        p = gateway.predict(raw, deadline=20).probabilities
        expected = runner.predict(raw, early_exit=False)
        np.testing.assert_array_equal(p, expected)
        inputs = [f"weather={folder / 'weather.csv'}", f"image={folder / 'photos'}"]
        assert main(["ask", *inputs, "--broker", str(broker)], path=bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines, expected, strict=True):
        assert f"{NAMES[row.argmax()]} {row.max():.4f}" in line


def test_messages_hold_each_input():
    x = raw_inputs(3)
    received = unpack_inputs(pack_inputs(x), x)
    assert [*received] == [*x]
    for name, array in x.items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].dtype == array.dtype
    for wrong in (pack_inputs(x)[:-1], pack_inputs(x) + b"0", pack_inputs(x["image"])):
        with pytest.raises(ValueError, match="Expected"):
            unpack_inputs(wrong, x)


@pytest.fixture
def files(tmp_path):
    """Photographs in a folder and a table, with the raw inputs in them."""
    raw = raw_inputs(4)
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(raw["image"]):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    np.savetxt(tmp_path / "weather.csv", raw["weather"], delimiter=",", fmt="%.9g")
    return tmp_path, raw


def test_files_are_read_together(files):
    folder, raw = files
    np.save(folder / "image.npy", raw["image"])
    shapes = {"image": IMAGE, "weather": WEATHER}
    for image in ("photos", "image.npy"):
        paths = {"image": folder / image, "weather": folder / "weather.csv"}
        parts = [*read_files(paths, shapes)]
        for name, array in raw.items():
            read = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(read, array)
    np.save(folder / "image.npy", raw["image"][:3])
    with pytest.raises(ValueError, match="3 of image, and more of weather"):
        [*read_files(paths, shapes)]


def test_the_command_predict(bundle, files, capsys):
    folder, raw = files
    inputs = [f"weather={folder / 'weather.csv'}", f"image={folder / 'photos'}"]
    output = folder / "p.npy"
    arguments = ["predict", *inputs, "--json", "--output", str(output)]
    assert main(arguments, path=bundle) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with EnsembleRunner(bundle) as runner:
        p = runner.predict(raw)
    np.testing.assert_allclose(np.load(output), p, atol=1e-6)
    for line, row in zip(lines, p, strict=True):
        assert line["name"] == NAMES[row.argmax()]
        assert Path(line["file"]["image"]).name == "photos"


@pytest.mark.parametrize(
    "wrong",
    [
        ["weather.csv"],
        ["-"],
        ["image=photos"],
        ["image=photos", "weather=weather.csv", "hour=1.csv"],
        ["image=photos", "image=photos"],
    ],
)
def test_wrong_arguments_of_the_command(bundle, capsys, wrong):
    assert main(["predict", *wrong], path=bundle) == 2
    assert "NAME=PATH once for each of the inputs" in capsys.readouterr().err


def test_inputs_of_unequal_length_are_told(bundle, files, capsys):
    folder, raw = files
    np.savetxt(folder / "weather.csv", raw["weather"][:2], delimiter=",")
    inputs = [f"weather={folder / 'weather.csv'}", f"image={folder / 'photos'}"]
    assert main(["predict", *inputs], path=bundle) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "2 of weather, and more of image" in captured.err
