import copy
import dataclasses
import json

import numpy as np
import pytest
from hostile_bundles import sealed, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_micronets.edge.bundle.from_json import from_json
from keras_micronets.edge.bundle.manifest import (
    FORMAT_VERSION,
    Combination,
    Manifest,
    MemberEntry,
    TensorSpec,
)
from keras_micronets.edge.preprocessing import Preprocessing


def entry(name="a", **changes):
    values = {
        "name": name,
        "file": f"{name}.tflite",
        "from_logits": False,
        "input": TensorSpec((4, 4, 2), "int8", 0.5, 3),
        "output": TensorSpec((3,), "int8", 1 / 256, -128),
        "bytes": 10,
        "gzip_bytes": 9,
        "metadata": {"sparsity": 0.8, "epoch": 3},
    }
    return MemberEntry(**values | changes)


def manifest(**changes):
    values = {
        "members": (entry("a"), entry("b")),
        "files": {"a.tflite": "00", "b.tflite": "01", "edge/cli.py": "02"},
        "class_names": ("x", "y", "z"),
        "preprocessing": Preprocessing(mean=(1.0, 2.0), scale=255.0),
        "combination": Combination("weights", (0.25, 0.75)),
        "accuracies": {"test": {"value": 0.9, "how": "on 360 digits"}},
        "package_version": "1.2.3",
        "created_by": "a test",
    }
    return Manifest(**values | changes)


PLAIN = json.loads(manifest().to_json())


def test_round_trip(tmp_path):
    assert Manifest.from_json(manifest().to_json()) == manifest()
    write_folder(tmp_path, sealed({}, manifest().to_json().encode()))
    assert Manifest.read(tmp_path) == manifest()


def test_defaults_round_trip():
    small = Manifest(members=(entry("a"),), files={"a.tflite": "00"})
    assert Manifest.from_json(small.to_json()) == small


def test_a_temperature_is_written_unless_it_is_one():
    plain, scaled = (
        manifest(combination=Combination("mean", temperature=t)) for t in (1.0, 1.7)
    )
    assert json.loads(plain.to_json())["combination"] == {
        "rule": "mean",
        "weights": None,
    }
    assert json.loads(scaled.to_json())["combination"]["temperature"] == 1.7
    assert Manifest.from_json(scaled.to_json()) == scaled
    assert Manifest.from_json(plain.to_json()).combination.temperature == 1
    assert plain.digest != scaled.digest
    with pytest.raises(ValueError, match="rule='vote'"):
        manifest(combination=Combination("vote", temperature=1.7))


def test_a_temperature_of_one_has_one_text(tmp_path):
    values = json.loads(changed(["combination", "temperature"], 1.0))
    text = json.dumps(values, indent=2) + "\n"
    assert Manifest.from_json(text) == manifest()
    write_folder(tmp_path, sealed({}, text.encode()))
    with pytest.raises(ValueError, match="a default"):
        Manifest.read(tmp_path)


def test_digest_is_of_the_values():
    spaced = Manifest.from_json(json.dumps(PLAIN, indent=7))
    assert spaced.digest == manifest().digest
    assert manifest(created_by="b test").digest != manifest().digest


def test_numpy_values_become_plain():
    free = {"accuracy": np.float32(0.5), "counts": np.arange(3)}
    read = Manifest.from_json(manifest(accuracies=free).to_json())
    assert read.accuracies == {"accuracy": 0.5, "counts": [0, 1, 2]}


def test_values_that_json_cannot_represent():
    with pytest.raises(TypeError, match="JSON can represent"):
        manifest(accuracies={"a": object()}).to_json()
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest(accuracies={"a": float("nan")}).to_json()


def changed(path, value):
    data = copy.deepcopy(PLAIN)
    *parents, last = path
    parent = data
    for key in parents:
        parent = parent[key]
    parent[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format_version"], FORMAT_VERSION + 1, "format_version=2"),
        (["format_version"], "1", "format_version='1'"),
        (["members"], {}, r"manifest\.members to be of type list"),
        (["members"], [], "Expected members"),
        (["members", 1, "name"], "a", "unique names"),
        (["members", 1, "bytes"], "10", r"members\[1\]\.bytes to be of type int"),
        (["members", 1, "bytes"], True, r"members\[1\]\.bytes to be of type int"),
        (["members", 0, "from_logits"], 1, "from_logits to be of type bool"),
        (["members", 0, "input"], {}, "names only for several inputs"),
        (["members", 0, "input"], {"a": {}}, r"members\[0\]\.input to have \['shape'"),
        (["members", 0, "input", "shape", 1], 4.5, r"input\.shape\[1\]"),
        (["members", 0, "input", "shape"], [2, 2, 2], "the same input shape"),
        (["members", 0, "output", "shape"], [4], "the same output shape"),
        (["members", 0, "file"], "c.tflite", "a hash of every file"),
        (["members", 0, "output", "scale"], 10**400, r"output\.scale"),
        (["files", "a.tflite"], None, r"files\['a\.tflite'\]"),
        (["class_names"], ["x"], "3 class names"),
        (["class_names"], "xyz", "class_names"),
        (["preprocessing", "mean"], [1, 2, 3], "one number per channel"),
        (["preprocessing", "mean"], "1", r"preprocessing\.mean"),
        (["preprocessing", "scale"], 0, "without zeros"),
        (["preprocessing", "scale"], float("nan"), "finite"),
        (["combination", "rule"], "median", "median"),
        (["combination", "weights"], [0.5], "2 non-negative weights"),
        (["combination", "weights"], None, "2 non-negative weights"),
        (["combination", "temperature"], 0, "temperature=0.0"),
        (["combination", "temperature"], -1.5, "temperature=-1.5"),
        (["combination", "temperature"], float("nan"), "temperature=nan"),
        (["combination", "temperature"], float("inf"), "temperature=inf"),
        (["combination", "temperature"], "2", "temperature to be of type float"),
        (["combination", "temperature"], None, "temperature to be of type float"),
        (["combination", "temperature"], True, "temperature to be of type float"),
        (["combination", "new"], 2.0, r"outside of the format. Received: \['new'\]"),
        (["accuracies"], 3, "accuracies to be of type dict"),
    ],
)
def test_wrong_value_is_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(changed(path, value))


REQUIRED = [
    field.name
    for field in dataclasses.fields(Manifest)
    if "optional" not in field.metadata
]


@pytest.mark.parametrize("field", REQUIRED)
def test_missing_field_is_named(field):
    text = json.dumps({key: value for key, value in PLAIN.items() if key != field})
    with pytest.raises(ValueError, match=field):
        Manifest.from_json(text)


@pytest.mark.parametrize("path", [["new"], ["members", 1, "new"]])
def test_unknown_field_is_named(path):
    with pytest.raises(ValueError, match=r"outside of the format. Received: \['new'\]"):
        Manifest.from_json(changed(path, 3))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PLAIN),
        json.dumps(PLAIN, indent=2),  # without an end of the line
        manifest().to_json().replace("0.25", "0.250"),
        manifest().to_json().replace("255.0", "255"),
        manifest().to_json().replace('{\n  "mem', '{\n  "created_by": "c",\n  "mem'),
    ],
)
def test_other_texts_of_a_manifest_are_rejected(tmp_path, text):
    assert Manifest.from_json(text) == manifest()
    write_folder(tmp_path, sealed({}, text.encode()))
    with pytest.raises(ValueError, match=r"the text that `Manifest\.to_json` returns"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000])
def test_not_a_manifest(text):
    with pytest.raises(ValueError, match="Expected a manifest"):
        Manifest.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(sorted(PLAIN)), value=json_values)
def test_anything_else_is_read_or_a_value_error(field, value):
    text = json.dumps(PLAIN | {field: value})
    try:
        read = Manifest.from_json(text)
    except ValueError:
        return
    assert isinstance(read, Manifest)


def test_read_names_the_directory(tmp_path):
    with pytest.raises(ValueError, match=f"Expected a bundle.*{tmp_path.name}"):
        Manifest.read(tmp_path)
    write_folder(tmp_path, sealed({}, b"\xff\xfe"))
    with pytest.raises(ValueError, match=tmp_path.name):
        Manifest.read(tmp_path)


def test_from_json_converts():
    assert from_json([[1], []], tuple[tuple[int, ...], ...], "v") == ((1,), ())
    assert from_json({"a": 1}, dict[str, float], "v") == {"a": 1.0}
    assert from_json(None, float | None, "v") is None
    with pytest.raises(ValueError, match=r"v\[1\] to be of type int. Received: '2'"):
        from_json([1, "2"], tuple[int, ...], "v")


def test_preprocessing():
    x = np.array([[0, 255]], "uint8")
    processed = Preprocessing(mean=(0.0, 127.5), scale=127.5)(x)
    assert processed.dtype == "float32"
    assert processed.tolist() == [[0, 1]]
    np.testing.assert_array_equal(Preprocessing()(x), x)
