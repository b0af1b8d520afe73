"""The calls of a model's layers, in the order in which the model runs them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_micronets import _keras_private

__all__ = [
    "GraphCall",
    "Pass",
    "begin_call",
    "call_number",
    "current_pass",
    "earlier_calls",
    "unroll",
]


@dataclass(eq=False)
class GraphCall:
    """One call of an operation in a model's graph; its tensors are `(call, index)`.

    Attributes:
        operation: The layer or operation. For an input of the model, an `InputLayer`.
        earlier: Number of earlier calls of the same operation.
        n_calls: Number of all calls of the operation.
        args: Positional arguments; tensors are symbolic.
        inputs: List of the tensors that it reads, in the order of its arguments.
        dtypes: Their types, as `"float32"`.
        shapes: Shapes of the outputs, the batch included.
        readers: List of `(call, position, index)` for each time that one of its
            outputs is read, `index` being that of the output.
        is_output: Whether one of its outputs is an output of the model.
        is_float: Whether one of its inputs or outputs is of floats.
        is_nested: Whether it is a call within a nested model.
    """

    operation: Any
    earlier: int = 0
    n_calls: int = 1
    args: tuple = ()
    inputs: list[tuple["GraphCall", int]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)
    readers: list[tuple["GraphCall", int, int]] = field(default_factory=list)
    is_output: bool = False
    is_float: bool = True
    is_nested: bool = False

    @property
    def is_input(self) -> bool:
        """Whether the tensor is an input of the model."""
        return isinstance(self.operation, keras.layers.InputLayer)

    def quantizer(self, tensor: str) -> Any:
        """Return the quantiser of a tensor of this call, `None` if there is none."""
        n_calls = len(self.operation.quantizers.calls) if self.is_micro else 0
        if not n_calls or self.n_calls % n_calls:  # of a part of the prepared model
            return None
        return self.operation.quantizer(tensor, self.earlier % n_calls)

    def reads_float(self, position: int) -> bool:
        """Return whether the input at a position is of floats."""
        return keras.backend.is_float_dtype(self.dtypes[position])

    @property
    def shares_quantizers(self) -> bool:
        """Whether several calls have the same quantisers, as in earlier versions."""
        return self.is_micro and len(self.operation.quantizers.calls) < self.n_calls

    @property
    def is_micro(self) -> bool:
        """Whether the operation is a micro layer."""
        return hasattr(self.operation, "quantizers")


def unroll(model: keras.Model) -> list[GraphCall]:
    """Return the calls of a model's graph, with those of nested models in their place.

    Args:
        model: A functional or sequential model.

    Returns:
        A list, the inputs first, then in the order in which the model runs.
    """
    calls: list[GraphCall] = []
    counts = Counter()

    def add(operation, args, inputs, dtypes=()):
        call = GraphCall(operation, counts[operation], 1, args, inputs, [*dtypes])
        counts[operation] += 1
        for position, (producer, index) in enumerate(inputs):
            producer.readers.append((call, position, index))
        calls.append(call)
        return call

    def run(nested, tensors):
        sources, results = _keras_private.graph_tensors(nested)
        known = dict(zip(map(id, sources), tensors, strict=False))
        for node in _keras_private.nodes_in_order(nested):
            read = [known.get(id(tensor)) for tensor in node.arguments.keras_tensors]
            if None in read:  # an optional input that is not given
                continue
            if _keras_private.is_functional(node.operation):
                made = run(node.operation, read)
            else:
                dtypes = [x.dtype for x in node.arguments.keras_tensors]
                call = add(node.operation, node.arguments.args, read, dtypes)
                call.is_nested = nested is not model
                call.shapes = [x.shape for x in node.outputs]
                dtypes += [x.dtype for x in node.outputs]
                call.is_float = any(map(keras.backend.is_float_dtype, dtypes))
                made = [(call, index) for index in range(len(node.outputs))]
            known.update(zip(map(id, node.outputs), made, strict=False))
        return [known[id(tensor)] for tensor in results]

    tensors, _ = _keras_private.graph_tensors(model)
    inputs = [add(_keras_private.producer(tensor)[0], (), []) for tensor in tensors]
    for call, tensor in zip(inputs, tensors, strict=True):
        call.shapes = [tensor.shape]
    for call, _ in run(model, [(call, 0) for call in inputs]):
        call.is_output = True
    for call in calls:
        call.n_calls = counts[call.operation]
    return calls


class Pass:
    """What happened since the outermost model or layer was called.

    Attributes:
        entry: That model or layer, `None` if it is unknown.
        measured: Dictionary from a quantiser to its range before the pass and the
            extremes that its calls have measured so far.
        united: Dictionary from a quantiser to the `SharedRange` that it rounds within
            during the pass.
        simulates: Whether the entry has quantisers, `None` until it is known.
    """

    def __init__(self, entry: keras.Layer | None):
        self.entry = entry
        self.measured: dict[Any, tuple] = {}
        self.united: dict[Any, Any] = {}
        self.simulates: bool | None = None
        self._calls = Counter()

    def count(self, layer: keras.Layer) -> None:
        """Note that a call of a layer begins."""
        self._calls[id(layer)] += 1

    def calls(self, layer: keras.Layer) -> int:
        """Return how many calls of a layer have begun."""
        return self._calls[id(layer)]

    def number(self, layer: keras.Layer, n_calls: int) -> int | None:
        """Return the number of a layer's present call, of the `n_calls` of its model.

        A model that calls the layer another number of times, as a part of the prepared
        model may, does not say which of the calls these are: `None` is returned.
        """
        found = calls_in_graph(self.entry).get(id(layer), 0)
        if found % n_calls or self.entry is layer:
            return None
        return max(self.calls(layer) - 1, 0) % n_calls


def current_pass() -> Pass | None:
    """Return the present `Pass`; `None` while no layer is called."""
    call = _keras_private.outermost_call()
    if call is None:
        return None
    if not hasattr(call, "keras_micronets_pass"):
        call.keras_micronets_pass = Pass(_keras_private.entry_of(call))
    return call.keras_micronets_pass


def begin_call(layer: keras.Layer) -> keras.Layer:
    """Count a call of a layer, and return the outermost layer that is called."""
    present = current_pass()
    if present is None:
        return layer
    present.count(layer)
    return present.entry or layer


def call_number(layer: keras.Layer, n_calls: int) -> int | None:
    """Return the number of a layer's present call, as `Pass.number`."""
    present = current_pass() if n_calls > 1 else None
    return 0 if present is None else present.number(layer, n_calls)


def earlier_calls(layer: keras.Layer) -> int:
    """Return how many calls of a layer in the present pass came before this one."""
    present = current_pass()
    return 0 if present is None else max(present.calls(layer) - 1, 0)


def calls_in_graph(model: keras.Layer | None) -> dict[int, int]:
    """Return how often a model's graph calls each layer, by the layer's `id`.

    Args:
        model: A model or layer. Of one without a graph nothing is known.
    """
    graph = model and _keras_private.graph_of(model)
    if graph is None:
        return {}
    if "keras_micronets_calls" not in vars(graph):  # unknown to Keras's tracking
        counts = {id(call.operation): call.n_calls for call in unroll(model)}
        vars(graph)["keras_micronets_calls"] = counts
    return vars(graph)["keras_micronets_calls"]
