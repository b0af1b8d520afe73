"""The JSON schema of the docs matches the loader."""

import dataclasses
import json
import re
import types
import typing
from pathlib import Path

import jsonschema
import pytest
from hostile_bundles import edited, files_of, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tflite import tiny_tflite

from keras_micronets.edge import EarlyExit, Manifest, verify
from keras_micronets.edge.bundle.files import MAX_FILES
from keras_micronets.edge.combine import MIN_TEMPERATURE, NUMBER_RULES, RULES
from keras_micronets.edge.tasks import TASKS
from keras_micronets.edge.tensors import DTYPES, MAX_VALUES
from keras_micronets.export import BundleMember, write_bundle

FILE = Path(__file__).parents[1] / "docs" / "bundle.schema.json"
SCHEMA = json.loads(FILE.read_text("utf-8"))
KINDS = {int: "integer", float: "number", str: "string", bool: "boolean"}
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OPTIONS = [
    {},
    {"class_names": ["x", "y", "z"], "accuracies": {"test": {"value": 0.5}}},
    {"combination": "weights", "weights": [1, 0]},
    {"early_exit": EarlyExit(1, (1, 0), tolerance=0.01, saved=0.3, samples=500)},
    {"early_exit": EarlyExit(None, (0, 1))},
    {"combination": "vote", "preprocessing": {"mean": 1, "scale": [2, 3.0]}},
    {"combination": "logit", "temperature": 1.7},
]


def written(path, **options):
    members = [
        BundleMember(name, tiny_tflite(i, int8=i == 0), metadata={"i": i})
        for i, name in enumerate("ab")
    ]
    return write_bundle(path, members, **options)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    return [
        files_of(written(folder / str(i), **options))
        for i, options in enumerate(OPTIONS)
    ]


def dataclasses_of(annotation):
    """Return the dataclasses in a type, by name."""
    types_by_name = {}
    if dataclasses.is_dataclass(annotation):
        types_by_name[annotation.__name__] = annotation
        for field in typing.get_type_hints(annotation).values():
            types_by_name |= dataclasses_of(field)
    for argument in typing.get_args(annotation):
        types_by_name |= dataclasses_of(argument)
    return types_by_name


DATACLASSES = dataclasses_of(Manifest)


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    objects = {n for n, d in SCHEMA["$defs"].items() if d.get("type") == "object"}
    assert objects == {*DATACLASSES}
    assert SCHEMA["$ref"] == "#/$defs/Manifest"


@pytest.mark.parametrize("name", DATACLASSES)
def test_the_schema_has_the_fields_of_the_dataclasses(name):
    definition, hints = SCHEMA["$defs"][name], typing.get_type_hints(DATACLASSES[name])
    assert [*definition["properties"]] == [*hints]
    fields = dataclasses.fields(DATACLASSES[name])
    assert definition["required"] == [
        field.name for field in fields if "optional" not in field.metadata
    ]
    assert definition["additionalProperties"] is False
    for field, annotation in hints.items():
        _compare(definition["properties"][field], annotation)


def _compare(schema, annotation):
    optional = types.NoneType in typing.get_args(annotation)
    if optional and "anyOf" not in schema:
        assert "null" in schema["type"]
    if dataclasses.is_dataclass(annotation):
        assert schema == {"$ref": f"#/$defs/{annotation.__name__}"}
    elif annotation in KINDS and "type" in schema:
        assert schema["type"] == KINDS[annotation]


def test_the_schema_has_the_limits_of_the_loader():
    tensor, manifest = (SCHEMA["$defs"][n] for n in ("TensorSpec", "Manifest"))
    tensor, manifest = tensor["properties"], manifest["properties"]
    assert tensor["dtype"]["enum"] == [*DTYPES]
    assert tensor["shape"]["items"]["maximum"] == MAX_VALUES
    assert manifest["files"]["maxProperties"] == MAX_FILES
    combination = SCHEMA["$defs"]["Combination"]["properties"]
    assert combination["rule"]["enum"] == [*dict.fromkeys(RULES + NUMBER_RULES)]
    assert combination["task"]["enum"] == [*TASKS]
    assert combination["temperature"]["minimum"] == MIN_TEMPERATURE
    assert combination["temperature"]["maximum"] == 1 / MIN_TEMPERATURE


def test_written_manifests_are_valid(contents):
    for files in contents:
        VALIDATOR.validate(json.loads(files["manifest.json"]))


def tensors(**values):
    """Return a function that changes the inputs of all members."""

    def change(manifest):
        for member in manifest["members"]:
            member["input"].update(values)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("members"),
        lambda m: m.update(new=1),
        lambda m: m.update(format_version=2),
        lambda m: m.update(members=[]),
        lambda m: m["members"][0].update(new=1),
        lambda m: m["files"].update({"a\\b": "0" * 64}),
        lambda m: m["files"].update({"edge/member.py": "0"}),
        lambda m: m["combination"].update(weights=[0.5, 0.5]),
        lambda m: m["combination"].update(rule="weights"),
        lambda m: m["combination"].update(rule="weights", weights=[-0.5, 1.5]),
        lambda m: m["combination"].update(temperature=0.0),
        lambda m: m["combination"].update(temperature=1e4),
        lambda m: m["combination"].update(temperature=None),
        lambda m: m["combination"].update(temperature=2.0, rule="vote"),
        lambda m: m["preprocessing"].update(mean=None),
        tensors(shape=[0, 6, 2]),
        tensors(shape=[2**28 + 1]),
        tensors(shape=[1] * 9),
        tensors(dtype="int4"),
        tensors(scale=-0.5),
        tensors(zero_point=2**31),
    ],
)
def test_wrong_manifests_are_invalid(contents, change, tmp_path):
    manifest = json.loads(contents[0]["manifest.json"])
    change(manifest)
    assert not VALIDATOR.is_valid(manifest)
    with pytest.raises(ValueError, match=r"Expected"):
        verify(write_folder(tmp_path, edited(contents[0], change)))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**33), 2**33),
    st.sampled_from([0, 1, 2, 6, *RULES, *DTYPES]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.floats(0, 1) | st.integers(0, 9) | st.text(max_size=2), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=2)),
)


def value_paths(value, at=()):
    """Yield the path of every value in a JSON value."""
    items = []
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *(p for key, item in items for p in value_paths(item, (*at, key)))]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_accepted_manifests_are_valid(contents, tmp_path, data):
    path, files = tmp_path / "bundle", data.draw(st.sampled_from(contents))
    manifest = json.loads(files["manifest.json"])
    field = data.draw(st.sampled_from([*manifest]))
    under = [keys for keys in value_paths(manifest) if keys[:1] == (field,)]
    value_path = data.draw(st.sampled_from(under))
    action = data.draw(st.sampled_from(["set", "set", "set", "delete", "add"]))
    value = data.draw(VALUES)

    def change(manifest):
        *parents, last = value_path
        for key in parents:
            manifest = manifest[key]
        if action == "delete":
            del manifest[last]
        else:
            manifest["new" if action == "add" and type(last) is str else last] = value

    changed = edited(files, change)
    write_folder(path, changed)
    try:
        verify(path)
    except ValueError:
        return
    VALIDATOR.validate(json.loads(changed["manifest.json"]))


def test_the_docs_describe_every_field_and_show_a_manifest():
    text = FILE.with_name("bundle.md").read_text("utf-8")
    for name, annotation in DATACLASSES.items():
        for field in dataclasses.fields(annotation):
            shown = rf"`(members\[\]\.|early_exit\.|combination\.)?{field.name}`"
            assert re.search(shown, text), (name, field)
    (example,) = re.findall(r"```json\n(.*?)```", text, re.S)
    VALIDATOR.validate(json.loads(example))
    Manifest.from_json(example)
