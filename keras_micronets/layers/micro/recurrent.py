"""Micro layers of the recurrent Keras layers: masks, and fake quantisers in the cell.

LiteRT computes an LSTM or GRU of a fixed number of steps in integers if a file has the
operations of each step: fully connected ones, sums, products, sigmoid and tanh. All
steps share the kernels, and one quantiser for each tensor of the cell.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_micronets.layers.litert.integer_operations import (
    difference_of,
    product_of,
    sum_of,
)
from keras_micronets.layers.litert.provenance import quantizer_of, tag, tag_moved
from keras_micronets.layers.micro.masked_layer import MaskedLayer
from keras_micronets.layers.micro.micro_layer import micro_class
from keras_micronets.layers.quantizers.activation import union

__all__ = [
    "MicroGRU",
    "MicroLSTM",
    "MicroRecurrent",
    "MicroSimpleRNN",
    "MicroSteps",
]

_ALMOST_ZERO = 1e-9  # a factor for which integers round to zero


class MicroRecurrent(MaskedLayer):
    """Base class of the recurrent layers with masks.

    The masks of the cell's `kernel` and `recurrent_kernel` belong to the layer. The
    cell reads the masked kernels while the layer runs its loop, so they are masked once
    a call, and fused implementations such as cuDNN's see the masks too.
    """

    cell: Any

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape)

    def kernel_variable(self, name: str) -> keras.Variable:
        return getattr(self.cell, name)

    @contextmanager
    def masked_cell(self) -> Iterator[None]:
        """Let the cell compute with the effective kernels inside the `with` block."""
        raw = {name: self.kernel_variable(name) for name in self.kernel_names}
        if not all(isinstance(kernel, keras.Variable) for kernel in raw.values()):
            yield  # a `Bidirectional` layer has masked them
            return
        # Past Keras's `__setattr__`, which would track the tensors.
        vars(self.cell).update({name: self.effective_kernel(name) for name in raw})
        try:
            yield
        finally:
            vars(self.cell).update(raw)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        with self.masked_cell():
            parent: Any = super()
            return parent.inner_loop(sequences, initial_state, mask, training=training)


@micro_class(keras.layers.SimpleRNN)
class MicroSimpleRNN(MicroRecurrent, keras.layers.SimpleRNN):
    """A `SimpleRNN` layer with masks of its kernel and its recurrent kernel."""


class MicroSteps(MicroRecurrent):
    """Base class of the recurrent layers whose steps can be quantised.

    The layer projects all steps at once. Training and prediction run the steps in a
    loop of the backend, also with `unroll`; a file has the operations of each. A
    training batch is rounded within the ranges that the batches before it have set: the
    range of a tensor is known only after the last step, and its union over the steps
    then enters the moving average. The first batch sets the ranges within the cell and
    is not rounded there.
    """

    go_backwards: bool
    return_sequences: bool
    return_state: bool
    units: int
    # Names of the states, and of all other tensors with the activation that makes them.
    state_tensors: tuple[str, ...]
    cell_tensors: dict[str, Any]

    def build_state(self) -> None:
        super().build_state()
        if self.quantizers.kernel:
            for number in range(len(self.quantizers.calls)):
                for tensor in self.cell_tensors:
                    self.add_quantizer(tensor, number)

    def output_tensor(self, index: int) -> str:
        return self.state_tensors[index - 1] if index else "output"

    def activation_within(self, tensor: str) -> Any:
        inside = self.cell_tensors.get(tensor)
        return super().activation_within(tensor) if inside is None else inside

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
    ) -> Any:
        if not self._rounds(initial_state, mask):
            parent: Any = super()
            return parent.call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )
        sequences = self.quantize_inputs(sequences)
        with self._dropout(sequences, training) as (dropped, drop_state):
            projected = self._project(dropped, training)
            cell = _Cell(self, self._recurrent(drop_state, training), training)
            outputs, states = self._run(projected, cell)
        cell.observe()
        quantizer = self.quantizer("output")
        outputs = tag(outputs, quantizer) if self.return_sequences else states[0]
        return (outputs, *states) if self.return_state else outputs

    def _rounds(self, initial_state, mask):
        given = keras.tree.flatten([initial_state, mask])
        quantizer = self.quantizer("output")
        if quantizer is None or any(one is not None for one in given):
            return False
        return quantizer.constant is not False  # of an export without quantisers

    @contextmanager
    def _dropout(self, sequences, training):
        """Give the sequences with values dropped, and the mask of the state."""
        cell, mask = self.cell, None
        if training and cell.dropout:
            kept = _first(cell.get_dropout_mask(sequences[:, 0]))
            sequences = sequences * ops.expand_dims(kept, 1)
        if training and cell.recurrent_dropout:
            shape = (ops.shape(sequences)[0], self.units)
            state = ops.zeros(shape, sequences.dtype)
            mask = _first(cell.get_recurrent_dropout_mask(state))
        yield sequences, mask
        cell.reset_dropout_mask()
        cell.reset_recurrent_dropout_mask()

    def _project(self, sequences, training):
        """Apply the kernel to all steps, and round."""
        accumulator = self.kernel_accumulator("kernel", quantizer_of(sequences))
        _, n_steps, features = sequences.shape
        # Of three axes, an open batch would keep the bias apart, in float.
        steps = ops.reshape(sequences, (-1, features))
        outputs = ops.matmul(steps, self.effective_kernel("kernel"))
        outputs = _add_bias(outputs, self.input_bias, accumulator, training)
        outputs = self.fake_quantize("projection", tag(outputs, accumulator))
        return ops.reshape(outputs, (-1, n_steps, outputs.shape[-1]))

    def _recurrent(self, drop_state, training):
        """Return the function that applies the recurrent kernel to a state."""
        kernel = self.effective_kernel("recurrent_kernel")

        def apply(state):
            quantizer = quantizer_of(state)
            accumulator = self.kernel_accumulator("recurrent_kernel", quantizer)
            state = state if drop_state is None else state * drop_state
            outputs = ops.matmul(state, kernel)
            outputs = _add_bias(outputs, self.recurrent_bias, accumulator, training)
            return tag(outputs, accumulator)

        return apply

    @property
    def input_bias(self) -> Any:
        """The bias of the projection of the inputs, or `None`."""
        return self.cell.bias

    @property
    def recurrent_bias(self) -> Any:
        """The bias of the projection of the state, or `None`."""
        return None

    def _run(self, projected, cell):
        """Run the steps; return the outputs of all or of the last, and the states."""
        steps = list(range(projected.shape[1]))
        first, *later = steps[::-1] if self.go_backwards else steps
        states = cell.step(self._step(projected, first), None)
        if self.quantizer("output").constant is None:
            return self._loop(projected, cell, states)
        outputs = [states[0]]
        for number in later:
            states = cell.step(self._step(projected, number), states)
            outputs.append(states[0])
        return ops.stack(outputs, axis=1) if self.return_sequences else None, states

    def _step(self, projected, number):
        step, quantizer = projected[:, number], self.quantizer("projection")
        return tag_moved(step, quantizer)

    def _loop(self, projected, cell, states):
        """Run the steps after the first in a loop of the backend."""
        loop = keras.layers.RNN(
            cell,
            return_sequences=self.return_sequences,
            go_backwards=self.go_backwards,
            name="steps",
        )
        rest = projected[:, :-1] if self.go_backwards else projected[:, 1:]
        _, outputs, carried = loop.inner_loop(rest, cell.pack(states), mask=None)
        if self.return_sequences:
            first = ops.expand_dims(states[0], 1)
            outputs = ops.concatenate([first, outputs], axis=1)
        return outputs, cell.unpack(carried)

    def step(
        self, projected: Any, states: list | None, recurrent: Callable, rounded: Any
    ) -> list:
        """Return the states after a step, the output first.

        Args:
            projected: Tensor `(batch, ...)`, the projected inputs of the step.
            states: The states before it, `None` before the first step.
            recurrent: Function that applies the recurrent kernel to a state.
            rounded: Function of a tensor's name and value that rounds it.
        """
        raise NotImplementedError


class _Cell:
    """Compute the steps of a layer, as a cell of `keras.layers.RNN`.

    In training it measures the tensors. A loop carries the extremes from step to step.
    """

    def __init__(self, layer, recurrent, training):
        self.layer, self.recurrent, self.training = layer, recurrent, training
        self.state_size = [layer.units]  # Keras expects one
        names = ("output", *layer.cell_tensors) if training else ()
        quantizers = {name: layer.quantizer(name) for name in names}
        quantizers.pop("projection", None)  # rounded outside of the loop
        self.learning = {name: one for name, one in quantizers.items() if one.learns}
        zero = ops.zeros((), "float32")
        self.extremes = {name: (zero, zero) for name in self.learning}

    def step(self, projected, states):
        """Return the states after a step."""
        return self.layer.step(projected, states, self.recurrent, self.rounded)

    def rounded(self, name, value):
        """Round a tensor, and measure it in training."""
        quantizer = self.layer.quantizer(name)
        if not self.training:
            return quantizer(value)
        if name in self.learning:
            measured = quantizer.observer.measure(value)
            self.extremes[name] = union(self.extremes[name], measured)
        return quantizer.round_in_loop(value)

    def pack(self, states):
        """Return states and extremes as the list of tensors that a loop carries."""
        return [*states, *keras.tree.flatten(list(self.extremes.values()))]

    def unpack(self, carried):
        """Return the states out of the tensors that a loop carries."""
        names = self.layer.state_tensors
        bounds = carried[len(names) :]
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        self.extremes = dict(zip(self.learning, pairs, strict=True))
        states = zip(names, carried, strict=False)
        return [tag(state, self.layer.quantizer(name)) for name, state in states]

    def call(self, projected, carried):
        """Make one step of a loop."""
        projected = tag(projected, self.layer.quantizer("projection"))
        states = self.step(projected, self.unpack(carried))
        return states[0], self.pack(states)

    __call__ = call

    def observe(self):
        """Move the ranges, after the last step."""
        for name, quantizer in self.learning.items():
            quantizer.observe(self.extremes[name])


@micro_class(keras.layers.LSTM)
class MicroLSTM(MicroSteps, keras.layers.LSTM):
    """An `LSTM` layer with masks of its kernels and fake quantisers in its cell.

    Quantisers round the projections of inputs and state, their sum, the gates, the
    products of gates, and both states.
    """

    state_tensors = ("output", "carry")
    cell_tensors = {
        "projection": None,
        "recurrent": None,
        "preactivation": None,
        "gate": keras.activations.sigmoid,
        "candidate": keras.activations.tanh,
        "forgotten": None,
        "added": None,
        "carry": None,
        "activated_carry": keras.activations.tanh,
    }

    def step(
        self, projected: Any, states: list | None, recurrent: Callable, rounded: Any
    ) -> list:
        if states is not None:
            inner = rounded("recurrent", recurrent(states[0]))
            projected = rounded("preactivation", _sum(projected, inner))
        chosen, kept, candidate, shown = self._gates(projected, states is None)
        chosen = rounded("gate", ops.sigmoid(chosen))
        carry = _product(chosen, rounded("candidate", ops.tanh(candidate)))
        if states is not None:
            kept = rounded("gate", ops.sigmoid(kept))
            kept = rounded("forgotten", _product(kept, states[1]))
            carry = _sum(kept, rounded("added", carry))
        carry = rounded("carry", carry)
        shown = rounded("gate", ops.sigmoid(shown))
        activated = rounded("activated_carry", ops.tanh(carry))
        return [rounded("output", _product(shown, activated)), carry]

    def _gates(self, values, first):
        if not first:
            return _split(values, 4)
        # The converter would leave a split in float of which a part is not read.
        slices = (slice(i * self.units, (i + 1) * self.units) for i in range(4))
        return [values[:, one] for one in slices]


@micro_class(keras.layers.GRU)
class MicroGRU(MicroSteps, keras.layers.GRU):
    """A `GRU` layer with masks of its kernels and fake quantisers in its cell.

    Quantisers round the projections of inputs and state, their sums, the gates, the
    products of gates, and the state.
    """

    reset_after: bool
    state_tensors = ("output",)
    cell_tensors = {
        "projection": None,
        "recurrent": None,
        "preactivation": None,
        "gate": keras.activations.sigmoid,
        "reset": None,
        "candidate_preactivation": None,
        "candidate": keras.activations.tanh,
        "kept": None,
        "rest": keras.activations.sigmoid,
        "added": None,
    }

    @property
    def input_bias(self) -> Any:
        bias = self.cell.bias
        return bias if bias is None else bias[0]

    @property
    def recurrent_bias(self) -> Any:
        bias = self.cell.bias
        return bias if bias is None else bias[1]

    def step(
        self, projected: Any, states: list | None, recurrent: Callable, rounded: Any
    ) -> list:
        state = self._zeros(projected) if states is None else states[0]
        gates, candidate = _split(projected, [2 * self.units])
        inner = rounded("recurrent", recurrent(state))
        inner_gates, inner = _split(inner, [2 * self.units])
        gates = rounded("preactivation", _sum(gates, inner_gates))
        update, reset = _split(rounded("gate", ops.sigmoid(gates)), 2)
        inner = rounded("reset", _product(reset, inner))
        candidate = rounded("candidate_preactivation", _sum(candidate, inner))
        candidate = rounded("candidate", ops.tanh(candidate))
        kept = rounded("kept", _product(update, state))
        rest = tag(1.0 - update, difference_of(1.0, update))
        added = rounded("added", _product(rounded("rest", rest), candidate))
        return [rounded("output", _sum(kept, added))]

    def _zeros(self, projected):
        """Return the state before the first step."""
        values, quantizer = projected[:, : self.units], self.quantizer("output")
        if quantizer.constant:  # the converter would round a constant otherwise
            return quantizer(values * _ALMOST_ZERO)
        return tag(ops.zeros_like(values), quantizer)


def _add_bias(outputs, bias, accumulator, training):
    if bias is None:
        return outputs
    if accumulator is not None and not training:
        bias = accumulator.round_bias(bias)
    return ops.add(outputs, bias)


def _first(masks):
    """Return one mask for all gates, where Keras has one for each."""
    return masks[0] if isinstance(masks, list) else masks


def _split(values, parts):
    quantizer = quantizer_of(values)
    return [tag(part, quantizer) for part in ops.split(values, parts, axis=-1)]


def _product(first, second):
    return tag(ops.multiply(first, second), product_of(first, second))


def _sum(first, second):
    # Of a batch of one, `ops.add` would reshape the second.
    return tag(first + second, sum_of(first, second))
