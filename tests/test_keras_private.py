"""Say which private name of Keras changed, and what of ours stands on it."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import nested, residual, sequential, shared, subclassed

from keras_micronets import _keras_private
from keras_micronets.layers.micro.micro_layer import MICRO_LAYERS


def broke(name, use):
    return f"Keras {keras.__version__} changed {name}: {use} must be mended"


@pytest.fixture
def layer():
    layer = keras.layers.Dense(2, name="dense")
    layer.build((None, 3))
    return layer


def test_tracker_unlocks_a_built_layer(layer):
    use = "_keras_private.unlocked, on which prepare stands,"
    assert hasattr(layer, "_tracker"), broke("Layer._tracker", use)
    for name in ("locked", "lock", "unlock", "untrack"):
        assert hasattr(layer._tracker, name), broke(f"Tracker.{name}", use)
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.extra = keras.layers.Dense(1)
    with _keras_private.unlocked(layer):
        layer.extra = keras.layers.Dense(1)
        layer.extra.build((None, 3))
    assert layer._tracker.locked, broke("Tracker.lock", use)
    assert len(layer.weights) == 4, broke("tracking of nested layers", use)


def test_unlocked_leaves_an_open_layer_open():
    layer = keras.layers.Dense(2)
    with _keras_private.unlocked(layer):
        pass
    assert not layer._tracker.locked


def test_unlocked_locks_after_an_error(layer):
    with pytest.raises(RuntimeError), _keras_private.unlocked(layer):
        raise RuntimeError
    assert layer._tracker.locked


def test_name_scope_gives_paths_under_the_layer(layer):
    inner = keras.layers.Dense(1, name="inner")
    with _keras_private.name_scope(layer):
        inner.build((None, 2))
    assert inner.kernel.path == "dense/inner/kernel", broke(
        "Layer._open_name_scope", "_keras_private.name_scope, for paths of masks,"
    )


def test_flatten_layers():
    for make, inside in ((nested, "depthwise"), (sequential, "conv")):
        model = make()
        layers = _keras_private.flatten_layers(model)
        message = broke("Layer._layers", "flatten_layers")
        assert layers[0] is model, message
        assert inside in [layer.name for layer in layers], message


def test_flatten_layers_stops_where_it_is_told():
    model = nested()
    found = _keras_private.flatten_layers(model, lambda layer: layer is model)
    assert found == [model, *model.layers], broke("Layer._layers", "flatten_layers")


def test_is_functional():
    message = broke("Functional._nodes or Sequential._functional", "is_functional")
    for make in (sequential, residual, nested, shared):
        assert _keras_private.is_functional(make()), message
    assert not _keras_private.is_functional(subclassed()), message
    assert not _keras_private.is_functional(keras.layers.Dense(1)), message


def names(edges):
    return {(a.name, b.name, position) for a, b, position in edges}


def test_edges():
    message = broke(
        "Operation._inbound_nodes, Functional._nodes, Node.arguments or "
        "KerasTensor._keras_history",
        "_keras_private.edges, for the placement of quantisers,",
    )
    found = names(_keras_private.edges(residual()))
    assert ("image", "conv1", 0) in found, message
    assert {("bn2", "add", 0), ("relu1", "add", 1)} <= found, message
    assert ("relu1", "conv2", 0) in found, message
    assert len(found) == 10, message


def test_edges_of_a_layer_called_twice():
    edges = _keras_private.edges(shared())
    found = [(a.name, b.name) for a, b, _ in edges if b.name == "shared"]
    assert len(found) == 2
    assert ("shared", "shared") in found


def test_edges_keep_to_their_own_model():
    """A layer used in another model too has nodes that are not this model's."""
    model = residual()
    before = names(_keras_private.edges(model))
    other = keras.Input((6, 6, 3))
    keras.Model(other, model.get_layer("conv1")(other))
    assert names(_keras_private.edges(model)) == before, broke(
        "the keys of Functional._nodes", "_keras_private.edges"
    )


def test_the_producer_of_a_tensor():
    message = broke("KerasTensor._keras_history", "_keras_private.producer")
    model = residual()
    tensor = model.get_layer("add").output
    operation, inputs = _keras_private.producer(tensor)
    assert operation.name == "add", message
    found = [_keras_private.producer(one)[0].name for one in inputs]
    assert found == ["bn2", "relu1"], message
    outside = keras.KerasTensor((None, 3))
    assert _keras_private.producer(outside) == (None, []), message


def test_the_producer_of_what_an_inner_model_puts_out():
    model = nested()
    tensor = model.get_layer("inner")(keras.Input((6, 6, 4)))
    assert _keras_private.producer(tensor)[0].name == "relu"


@pytest.mark.parametrize("build", [sequential, residual, nested, shared])
def test_nodes_are_in_the_order_in_which_a_model_runs_them(build):
    model, found = build(), []
    for layer in model.layers:
        layer.call = noting(layer.call, layer.name, found)
    model(np.zeros((1, *model.input_shape[1:])))
    nodes = _keras_private.nodes_in_order(model)
    assert [node.operation.name for node in nodes] == found, broke(
        "Functional._nodes_by_depth", "_keras_private.nodes_in_order"
    )


def noting(function, name, found):
    @functools.wraps(function)
    def call(*args, **kwargs):
        found.append(name)
        return function(*args, **kwargs)

    return call


class Entry(keras.layers.Layer):
    """Note in which outermost call it is called."""

    def __init__(self, found, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.note, self.inner = found.append, inner

    def call(self, inputs):
        call = _keras_private.outermost_call()
        self.note((id(call), _keras_private.entry_of(call)))
        return inputs if self.inner is None else self.inner(inputs)


def test_the_outermost_call():
    message = broke("Layer._get_call_context", "_keras_private.outermost_call")
    outer = Entry(found := [], Entry(found))
    outer(ops.zeros((1, 2)))
    found.clear()  # of the shapes' computation
    outer(ops.zeros((1, 2)))
    assert len(found) == 2, message
    assert len(set(found)) == 1, message
    assert found[0][1] is outer, message
    assert _keras_private.outermost_call() is None, message


def test_the_outermost_call_of_a_stateless_call():
    message = broke("Layer.stateless_call", "_keras_private.entry_of")
    outer = Entry(found := [], Entry(found))
    outer(ops.zeros((1, 2)))
    found.clear()
    outer.stateless_call([], [], ops.zeros((1, 2)))
    assert len(found) == 2, message
    assert len(set(found)) == 1, message
    assert found[0][1] is outer, message


@pytest.mark.parametrize("training", [True, False])
def test_training(training):
    found = []

    class Inner(keras.layers.Layer):  # without the argument
        def call(self, inputs):
            found.append(_keras_private.is_training())
            return inputs

    model = keras.Sequential([keras.Input((2,)), Inner()])
    found.clear()
    model(np.zeros((1, 2)), training=training)
    message = broke("CallContext.training", "_keras_private.is_training")
    assert found == [training], message
    assert not _keras_private.is_training(), message


def test_the_type_of_an_input():
    message = broke("KerasTensor._dtype", "_keras_private.set_input_dtype")
    model = keras.Sequential([keras.layers.Dense(2, dtype="mixed_bfloat16")])
    model.build((None, 3))
    assert model.inputs[0].dtype == "bfloat16", message
    _keras_private.set_input_dtype(model.inputs[0], "float32")
    copy = keras.Sequential.from_config(model.get_config())
    assert model.inputs[0].dtype == copy.inputs[0].dtype == "float32", message


def test_operations():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, 1.0 / (inputs + 2.0))
    *_, add, divide = _keras_private.operations(model)
    found = _keras_private.operation_classes("Add", "TrueDivide")
    assert found == {"Add": type(add), "TrueDivide": type(divide)}, broke(
        "the classes beside keras.ops.add", "_keras_private.operation_classes"
    )


def test_replace_layers():
    class Owner(keras.Model):
        def __init__(self, parts):
            super().__init__()
            self.parts = parts

        def call(self, inputs):
            return self.parts[0](inputs)

    owner = Owner([keras.layers.Dense(2, name="old")])
    owner(np.zeros((1, 3), "float32"))
    new = keras.layers.Dense(5, name="new")
    new.build((None, 3))
    _keras_private.replace_layers(owner, "parts", [new, "not a layer"])
    found = [layer.name for layer in _keras_private.flatten_layers(owner)]
    message = broke("Tracker.untrack", "replace_layers, for EnsemblePruner.prune,")
    assert "new" in found, message
    assert "old" not in found, message
    assert len(owner.weights) == 2, message
    assert owner(np.zeros((1, 3), "float32")).shape == (1, 5)


def test_kernels_are_the_variables_that_train():
    """Micro layers mask the variables that Keras returns under these names."""
    for base, cls in MICRO_LAYERS.items():
        if not cls.kernel_names:
            continue
        name = base.__name__
        is_recurrent = issubclass(base, keras.layers.RNN)
        one = is_recurrent or name == "Dense"
        arguments = (2,) if one else (2, 1)
        layer = base(*{"EinsumDense": ("ab,bc->ac", 2)}.get(name, arguments))
        rank = 2 if "Dense" in name else 3 + ("2D" in name) + 2 * ("3D" in name)
        layer.build((None, *[4] * (rank - 1)))
        trained = list(map(id, layer.trainable_variables))
        for kernel in cls.kernel_names:
            owner = layer.cell if is_recurrent else layer
            found = id(getattr(owner, kernel)) in trained
            assert found, broke(f"{name}.{kernel}", f"Micro{name}")


def test_compiling_makes_a_new_loss():
    use = "_keras_private.compiled_loss, on which kernel_gradients stands,"
    model = sequential()
    model.compile("sgd", "mse")
    first = _keras_private.compiled_loss(model)
    assert first is not None, broke("Trainer._compile_loss", use)
    model.compile("sgd", "mse")
    assert _keras_private.compiled_loss(model) is not first, broke("compile", use)


def test_graph_calls_come_after_what_they_read():
    for make in (residual, shared, nested, sequential):
        model = make()
        inputs, outputs = _keras_private.graph_tensors(model)
        known = set(map(id, inputs))
        for call in _keras_private.graph_calls(model):
            read = keras.tree.flatten((call.args, call.kwargs))
            read = [x for x in read if isinstance(x, keras.KerasTensor)]
            assert known >= set(map(id, read)), broke(
                "Node.arguments or Functional._nodes", "_keras_private.graph_calls"
            )
            known |= set(map(id, call.outputs))
        assert known >= set(map(id, outputs))


def test_graph_calls_have_each_call_of_a_shared_layer():
    found = [call.operation.name for call in _keras_private.graph_calls(shared())]
    assert found.count("shared") == 2


def test_layer_classes_of_applications():
    (found,) = _keras_private.application_classes("ConvNeXtTiny", "LayerScale")
    assert issubclass(found, keras.layers.Layer), broke(
        "keras.applications' LayerScale", "channels.rules"
    )


def test_callbacks_of_fit_are_found_among_the_callers():
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.extend(_keras_private.callbacks_of_fit())

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    first, look = keras.callbacks.TerminateOnNaN(), Look()
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[first, look])
    use = "the warning of callbacks that keep a half-pruned epoch"
    assert found[:2] == [first, look], broke("the callers of hooks", use)
    assert _keras_private.callbacks_of_fit() == []


def test_backend_functions_are_those_that_keras_ops_call():
    x = keras.ops.ones((2, 3))
    functions = [keras.ops.argmax, keras.ops.tan, keras.ops.logsumexp]
    others = dict.fromkeys(("argmax", "tan", "logsumexp"), lambda *x, **y: "other")
    with _keras_private.backend_functions(others):
        assert [function(x) for function in functions] == 3 * ["other"]
    assert keras.ops.convert_to_numpy(keras.ops.argmax(x)) == 0


def test_layers_know_what_they_were_built_and_called_with():
    inputs, state = keras.Input((4, 3)), keras.Input((2,))
    plain, given, masked = (keras.layers.GRU(2) for _ in range(3))
    plain(inputs)
    given(inputs, initial_state=state)
    masked(keras.layers.Masking()(inputs))
    use = "the float operations announced for recurrent layers"
    counts = [_keras_private.n_inputs(layer) for layer in (plain, given, masked)]
    assert counts == [1, 2, 2], broke("Layer._inbound_nodes", use)
    shapes = {_keras_private.build_shape(layer) for layer in (plain, given, masked)}
    assert shapes == {(None, 4, 3)}, broke("Layer._build_shapes_dict", use)


def test_settings_of_attention_layers():
    use = "micro/composites.py, which computes attention in integers,"
    plain = keras.layers.MultiHeadAttention(2, 3)
    assert _keras_private.attention_settings(plain) == ((1,), False)
    grouped = keras.layers.GroupQueryAttention(3, 4, 2)
    along = keras.layers.MultiHeadAttention(2, 3, attention_axes=(1, 2))
    for layer, shape in (
        (plain, (1, 5, 4)),
        (grouped, (1, 5, 4)),
        (along, (1, 3, 3, 4)),
    ):
        layer.build(shape, shape)
        names = ("_compute_attention", "_dropout_layer", "_key_dense", "_value_dense")
        for name in names:
            assert hasattr(layer, name), broke(f"{type(layer).__name__}.{name}", use)
    settings = [_keras_private.attention_settings(x) for x in (plain, grouped, along)]
    assert settings == [((1,), False), ((1,), False), ((1, 2), False)]
