"""Callbacks and values are restored from their configuration and from their `repr`."""

import dataclasses
import inspect
import json
import re
import types

import keras
import pytest

import keras_micronets

# One instance of each public class whose instances a user makes, with arguments that
# are not the defaults.
EXAMPLES = """
callbacks.AccuracyGuard(0.02, monitor="val_loss", path="guard.json")
callbacks.ChannelPruning(params=0.5, macs=0.4, start=0.2, end=0.5)
callbacks.Cycle(initial="parent", learning_rate=learning_rates.Cosine(0.1, end=0.5))
callbacks.DynamicSparseTraining(0.9, growth="random", frequency=50, seed=3)
callbacks.Cycle(mask=callbacks.masks.Channels(macs=0.5), quantize=0.5)
callbacks.Cycle(mask=callbacks.masks.Regrow(0.5, on_first_cycle=True))
callbacks.LearnerCheckpoint(LearnerPool("pool"), every=2, start=0.1, seed=3)
callbacks.LearnerCheckpoint(LearnerPool("pool"), keep="best", monitor="loss")
callbacks.WeightPruning(schedules.Constant(0.5), guard=callbacks.AccuracyGuard(0.1))
callbacks.LearnerCycles(LearnerPool("pool"), 3, callbacks.Cycle(), warmup=0.1)
callbacks.QuantizationAwareTraining(0.5, observer=observers.Percentile(99.0))
callbacks.WeightPruning(schedules.Constant(0.5), pattern=sparsity.Block(4), seed=1)
callbacks.masks.Channels(params=0.5, noise=0.1)
callbacks.masks.Magnitude((0.1, 0.5), noise=0.5, allocation="global")
callbacks.masks.RandomHalves(sparsity.Block(4))
callbacks.masks.Regrow(0.5, on_first_cycle=True)
channels.importance.GroupNorm(0.1)
channels.importance.Magnitude()
channels.importance.NormalizationScale(0.01)
channels.importance.Random(seed=1)
channels.importance.Taylor()
edge.Broker("broker.local", port=1884, username="gateway")
edge.Alarm(0.02, false_alarm_rate=0.01, samples=200)
edge.SpreadScale((1.5,), (0.2,), gain=0.7, samples=300)
edge.EarlyExit(0.6, order=(2, 0, 1), tolerance=0.001)
edge.Preprocessing(mean=127.5, scale=(127.5, 120.0, 119.0))
export.BundleMember("small", "small.tflite", from_logits=True)
layers.Layout((0, 1), (3, 4), (3, 4))
layers.QuantizationScheme(observer=observers.MovingAverage(0.9), kernel_bits=4)
layers.QuantizerSpec(kernel=True, inputs=(0, 2), output=True)
layers.Scope(only=["a", "b"], first=False)
layers.Scope(small=True, last=True, frozen=True)
learning_rates.Cosine(0.1, end=0.5)
learning_rates.OneCycle(0.1, climb=0.2, start=0.3, end=0.01)
learning_rates.PiecewiseConstant([0.1, 0.01])
losses.Distillation(0.5, loss="binary_crossentropy", from_logits=True)
observers.LearnedStepSize()
observers.MovingAverage(0.9)
observers.Percentile(99.0, momentum=0.9, samples=100)
schedules.Constant(0.5, start=0.1)
schedules.PolynomialDecay(0.1, 0.9, start=0.1, end=0.8, power=2.0)
selection.EnsembleSelector("greedy", 3, combination="vote", random_state=1)
sparsity.Block(4)
sparsity.Channels()
sparsity.Movement()
sparsity.NofM(2, 4)
sparsity.Random(seed=3)
sparsity.Unstructured()
""".strip().splitlines()

# Public classes whose instances are not made from arguments alone. Layers, models and
# exceptions are not looked at.
NOT_VALUES = {
    # They hold a file, a thread or a model.
    "LearnerPool",
    "channels.ChannelGraph",
    "channels.Group",
    "channels.Planner",
    "edge.EnsembleRunner",
    "edge.Gateway",
    "edge.Manifest",
    "edge.Member",
    "edge.Node",
    "layers.Kernel",
    "learners.Learner",
    "learners.LearnerPool",
    # They hold data, or are results.
    "channels.Plan",
    "edge.BenchReport",
    "edge.EnsembleResult",
    "export.CArray",
    "export.ExportReport",
    "layers.PreparationReport",
    "layers.QuantizationReport",
    "layers.QuantizedTensor",
    "layers.SparsityReport",
    "selection.Choice",
    "selection.LearnerRow",
    "selection.MemberScores",
    "selection.Selection",
    "selection.SelectionReport",
    "selection.SizeChoice",
    "selection.Targets",
    # They are base classes, or adapt an object of another package.
    "learning_rates.LearningRate",
    "observers.Observer",
    "schedules.Schedule",
    "sparsity.Pattern",
    "sparsity.Units",
}


def public_classes(module=keras_micronets, path="", seen=()):
    """Return the classes that users reach through `__all__`, by name."""
    found = {}
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value):
            found[f"{path}{name}"] = value
        elif isinstance(value, types.ModuleType) and value not in seen:
            found |= public_classes(value, f"{path}{name}.", (*seen, module))
    return found


def names_for(expression):
    """Return what the `repr` of an example may refer to: public names of its modules.

    Several modules have a `Channels`, a `Magnitude` and a `Random`; those of the
    modules that the example names come first.
    """
    names = {name.rpartition(".")[2]: x for name, x in public_classes().items()}
    for path in re.findall(r"([\w.]+)\.\w+\(", expression):
        module = make(path)
        names |= {name: getattr(module, name) for name in module.__all__}
    return names


def make(expression):
    names = {name: getattr(keras_micronets, name) for name in keras_micronets.__all__}
    return eval(expression, names)


def config_of(value):
    """Return the arguments of a value, each by its name."""
    if hasattr(value, "get_config"):
        return value.get_config()
    if hasattr(value, "get_params"):
        return value.get_params()
    return {x.name: getattr(value, x.name) for x in dataclasses.fields(value)}


def plain(config):
    """Return a configuration as text, in which tuples are lists, as in a file."""
    return json.dumps(config, default=repr, sort_keys=True)


def restore(cls, config):
    return cls.from_config(config) if hasattr(cls, "from_config") else cls(**config)


@pytest.fixture(params=EXAMPLES)
def example(request):
    return request.param


@pytest.fixture
def value(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make(example)


def test_the_configuration_restores_the_value(value):
    config = config_of(value)
    copy = restore(type(value), config)

    assert type(copy) is type(value)
    assert plain(config_of(copy)) == plain(config)


def test_the_configuration_has_every_argument(value):
    assert set(inspect.signature(type(value)).parameters) <= set(config_of(value))


def test_keras_restores_a_registered_value(value):
    cls = type(value)
    if keras.saving.get_registered_name(cls) == cls.__name__:
        pytest.skip("not registered with Keras")
    config = keras.saving.serialize_keras_object(value)
    copy = keras.saving.deserialize_keras_object(config)

    assert type(copy) is cls
    assert plain(keras.saving.serialize_keras_object(copy)) == plain(config)


def test_the_repr_can_be_pasted(example, value):
    copy = eval(repr(value), names_for(example))

    assert type(copy) is type(value)
    assert repr(copy) == repr(value)
    assert plain(config_of(copy)) == plain(config_of(value))


def test_every_public_value_has_an_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {type(make(expression)) for expression in EXAMPLES}
    others = (keras.layers.Layer, BaseException)
    missing = {
        name
        for name, cls in public_classes().items()
        if cls not in known and not issubclass(cls, others)
    }
    assert missing == NOT_VALUES
