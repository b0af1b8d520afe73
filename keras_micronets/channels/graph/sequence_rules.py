"""Channel rules of recurrent layers, whose units are cut, and of attention, its heads.

A unit is an index of each gate in the last axis of the kernels, and a row of the
recurrent kernel. A head is an index of the second axis of the kernels of query, key and
value, and of the first one of the output's.
"""

from math import prod
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_micronets import _keras_private
from keras_micronets.channels.graph.node import KernelCall, TracedTensor
from keras_micronets.channels.graph.rules import call_rule_for
from keras_micronets.layers.litert.capabilities import plain_class

__all__: list[str] = []

_RECURRENT = (layers.SimpleRNN, layers.GRU, layers.LSTM)


@call_rule_for(*_RECURRENT)
def _recurrent(tracer, layer, call, sequences, initial_state=None, **others):
    states: Any = keras.tree.flatten(initial_state)
    given = [state for state in states if state is not None]
    if not all(isinstance(x, TracedTensor) for x in (sequences, *given)):
        return None
    if layer.stateful:
        return None
    units = _units(tracer, layer, layer, sequences)
    tracer.bind(layer, None, 0, units, ("units", None))
    for state in given:
        tracer.ties.tie(tracer.channels(state, 1), units)
    return [{len(output.shape) - 1: units} for output in call.outputs]


def _units(tracer, layer, direction, sequences):
    """Bind the kernels of a recurrent layer, or of one direction; return its units."""
    cell, shape = direction.cell, sequences.shape
    n_gates = cell.kernel.shape[-1] // direction.units
    reason = f"{layer.name} steps along their axis"
    tracer.protect(sequences, reason, except_axes=(2,))
    read = tracer.channels(sequences, 2)
    tracer.bind(layer, cell.kernel, 0, read, role="reads")
    gates = tracer.produce(layer, cell.kernel, -1, None, n_gates)
    units = gates[: direction.units]
    tracer.bind(layer, cell.recurrent_kernel, 0, units, role="reads")
    tracer.bind(layer, cell.recurrent_kernel, -1, gates, role="produces")
    if cell.bias is not None:  # of a GRU, one row for inputs and one for the state
        tracer.bind(layer, cell.bias, -1, gates)
    for kernel in (cell.kernel, cell.recurrent_kernel):
        tracer.add_kernel_call(kernel, shape, [1])
    return units


@call_rule_for(layers.Bidirectional)
def _bidirectional(tracer, layer, call, sequences, initial_state=None, **others):
    """Both directions lose the same units."""
    parts = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    if not all(plain_class(one) in _RECURRENT for one in parts.values()):
        return None
    has_state = layer.stateful or layer.return_state or initial_state is not None
    if has_state or not isinstance(sequences, TracedTensor):
        return None
    if len({one.units for one in parts.values()}) > 1:
        return None
    units = [_units(tracer, layer, one, sequences) for one in parts.values()]
    for name, own in zip(parts, units, strict=True):
        tracer.bind(layer, None, 0, own, (name, ("config", "units")))
    tracer.ties.tie(*units)
    axis = len(call.outputs[0].shape) - 1
    if layer.merge_mode == "concat":
        return [{axis: np.concatenate(units)}]
    return [{axis: own} for own, _ in zip(units, call.outputs, strict=False)]


@call_rule_for(layers.MultiHeadAttention, layers.GroupQueryAttention)
def _attention(
    tracer, layer, call, query, value, key=None, attention_mask=None, **others
):
    """A head of keys and values is cut with all heads of queries that read it."""
    read = {"query": query, "key": value if key is None else key, "value": value}
    axes, is_gated = _keras_private.attention_settings(layer)
    part = {one.name: one for one in _keras_private.flatten_layers(layer)}
    output = part["attention_output"]
    names_heads = len(getattr(attention_mask, "shape", ())) > 3
    if is_gated or names_heads or axes != (1,) or len(output.kernel.shape) != 3:
        return None
    traced = [x for x in read.values() if isinstance(x, TracedTensor)]
    if [len(x.shape) for x in traced] != [3, 3, 3]:
        return None
    heads = tracer.produce(layer, part["key"].kernel, 1, None)
    readers = np.repeat(heads, output.kernel.shape[0] // len(heads))
    for name, tensor in read.items():
        own = readers if name == "query" else heads
        _project(tracer, layer, part[name], tensor, own)
    tracer.bind(layer, output.kernel, 0, readers, role="reads")
    out = tracer.produce(layer, output.kernel, -1, None)
    if output.bias is not None:
        tracer.bind(layer, output.bias, 0, out)
    size = part["value"].kernel.shape[-1]
    if plain_class(layer) is layers.MultiHeadAttention:
        tracer.bind(layer, None, 0, heads, ("num_heads", None), size=size)
        tracer.bind(layer, None, 0, out, ("output_shape", None))
    else:  # whose queries, values and outputs are equally wide
        tracer.bind(layer, None, 0, heads, ("num_key_value_heads", None), size=size)
        tracer.bind(layer, None, 0, readers, ("num_query_heads", None), size=size)
        for tensor in (query, value):
            tracer.ties.tie(tracer.channels(tensor, 2), out)
    tracer.add_kernel_call(output.kernel, query.shape, [1])
    products = prod(x.shape[1] or 1 for x in (query, read["key"]))
    products *= size + part["key"].kernel.shape[-1]
    scores = KernelCall(output.kernel, products, (readers,), of_weight=False)
    tracer.kernel_calls.append(scores)
    return [{2: out}, {1: readers}][: len(call.outputs)]


def _project(tracer, layer, dense, tensor, heads):
    """Bind a projection of an attention layer to its heads."""
    reason = f"{layer.name} attends along their axis"
    tracer.protect(tensor, reason, except_axes=(2,))
    tracer.bind(layer, dense.kernel, 0, tracer.channels(tensor, 2), role="reads")
    tracer.bind(layer, dense.kernel, 1, heads, role="produces")
    if dense.bias is not None:
        tracer.bind(layer, dense.bias, 0, heads)
    tracer.add_kernel_call(dense.kernel, tensor.shape, [1])
