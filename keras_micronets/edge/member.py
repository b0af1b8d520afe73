"""Run one `.tflite` model with LiteRT, on real inputs and outputs."""

import functools
import os
import re
import threading
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .tasks import to_predictions
from .tensors import (
    TensorSpec,
    by_name,
    count_samples,
    map_inputs,
    shape_of,
    take_samples,
)

__all__ = ["Member", "load_interpreter"]


class Member:
    """Run one `.tflite` model and return its predictions.

    Args:
        model: Path of a `.tflite` file, or the bytes of one. It has one or several
            inputs and one output, whose first dimension is the batch.
        name: Name used in tables and messages. Defaults to the file's stem, or
            to `"member"` for bytes.
        from_logits: Whether the model returns logits, so that `predict` applies a
            softmax, or a sigmoid to each label. Defaults to `False`.
        task: What the model predicts, one of `edge.TASKS`. Defaults to `"multiclass"`.
        num_threads: Number of threads for one inference. Defaults to `1`.

    Attributes:
        input: `TensorSpec` of the input; of several, a dictionary by their names: those
            of the file's signature if it has one, else those of its tensors.
        output: `TensorSpec` of the output.
        input_shape, output_shape: Shapes without the batch.
        input_dtype, output_dtype: NumPy dtype names, `"int8"` for example.
        input_quantization, output_quantization: `(scale, zero_point)`, and
            `(0.0, 0)` for a float tensor.
        tensor_indices: LiteRT's index of the input.

    Where there are several inputs, the attributes of inputs are dictionaries.

    Raises:
        ValueError: If LiteRT cannot load the model, or it has several outputs.

    Example:

    ```python
    from keras_micronets.edge import Member

    member = Member("model.tflite", from_logits=True)
    probabilities = member.predict(np.zeros((1, *member.input_shape), "float32"))
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        *,
        name: str | None = None,
        from_logits: bool = False,
        task: str = "multiclass",
        num_threads: int = 1,
    ) -> None:
        self.name = name or _default_name(model)
        self.from_logits, self.task = from_logits, task
        interpreter = load_interpreter(model, self.name, num_threads)
        n_bytes = len(model) if isinstance(model, bytes) else os.path.getsize(model)
        self._describe(interpreter, n_bytes)

    @classmethod
    def from_interpreter(
        cls,
        interpreter: Interpreter,
        *,
        n_bytes: int,
        name: str,
        from_logits: bool = False,
        task: str = "multiclass",
    ) -> "Member":
        """Return a member that runs a loaded interpreter.

        Args:
            interpreter: Interpreter of LiteRT with allocated tensors.
            n_bytes: Size of the model's file.
            name: Name used in tables and messages.
            from_logits: Whether the model returns logits. Defaults to `False`.
            task: What the model predicts. Defaults to `"multiclass"`.

        Raises:
            ValueError: If the model has several outputs.
        """
        member = cls.__new__(cls)
        member.name, member.from_logits, member.task = name, from_logits, task
        member._describe(interpreter, n_bytes)
        return member

    def _describe(self, interpreter: Interpreter, n_bytes: int) -> None:
        inputs = _input_details(interpreter, self.name)
        output = _single_output(interpreter.get_output_details(), self.name)
        self._lock = threading.Lock()
        self._interpreter, self._file_bytes = interpreter, n_bytes
        self._batch = _batch_size(inputs, self.name)
        self.input = _unnamed({name: _spec(detail) for name, detail in inputs.items()})
        self.output = _spec(output)
        indices = {name: int(detail["index"]) for name, detail in inputs.items()}
        self.tensor_indices = _unnamed(indices)
        self._output_index = int(output["index"])

    @property
    def input_shape(self) -> Any:
        return shape_of(self.input)

    @property
    def input_dtype(self) -> Any:
        return map_inputs(lambda spec: spec.dtype, self.input)

    @property
    def input_quantization(self) -> Any:
        return map_inputs(lambda spec: spec.quantization, self.input)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def output_dtype(self) -> str:
        return self.output.dtype

    @property
    def output_quantization(self) -> tuple[float, int]:
        return self.output.quantization

    @property
    def memory(self) -> int:
        """Upper bound of the bytes it needs, for its file and all its tensors."""
        return self._file_bytes + sum(
            int(np.prod(tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize
            for tensor in self._interpreter.get_tensor_details()
        )

    def predict_raw(self, x: Any) -> np.ndarray:
        """Return the raw outputs of the model, integers for an int8 model.

        Args:
            x: As for `predict`. They are quantised here if the model takes integers.

        Returns:
            Array of shape `(samples, *output_shape)` and the output's dtype.
        """
        x = map_inputs(self._quantize, by_name(x, self.input), self.input)
        count = count_samples(x)
        if count == self._batch:
            with self._lock:
                return self._invoke(x)
        raw = np.empty((count, *self.output_shape), self.output.dtype)
        with self._lock:
            for start in range(0, count, self._batch):
                samples = slice(start, start + self._batch)
                raw[samples] = self._invoke(take_samples(x, samples))
        return raw

    def _quantize(self, x, spec):
        x = np.asarray(x, "float32")
        if x.shape[1:] != spec.shape or x.ndim == 0:
            raise ValueError(
                f"Expected inputs of shape "
                f"(samples, {', '.join(map(str, spec.shape))}) for the member "
                f"{self.name!r}. Received: shape {x.shape}."
            )
        return quantize(x, spec.dtype, *spec.quantization)

    def predict(self, x: Any) -> np.ndarray:
        """Return class probabilities, or the numbers that the model predicts.

        The probabilities of an int8 softmax are multiples of 1/256, so their sum
        differs from one by the rounding; such rows are scaled to sum to one.

        Args:
            x: Inputs of shape `(samples, *input_shape)`, as real values; for several
                inputs a dictionary of arrays, or a list in the order of the inputs.

        Returns:
            `float32` array of shape `(samples, *output_shape)`.

        Raises:
            ValueError: If `x` has another shape.
        """
        scale, zero_point = self.output_quantization
        outputs = dequantize(self.predict_raw(x), scale, zero_point)
        return to_predictions(
            outputs, task=self.task, from_logits=self.from_logits, scale=scale
        )

    def _invoke(self, x):
        count = count_samples(x)
        if count < self._batch:  # the batch size of the model is fixed: fill it up
            x = take_samples(x, np.minimum(np.arange(self._batch), count - 1))
        map_inputs(self._interpreter.set_tensor, self.tensor_indices, x)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(
                f"Expected a model that LiteRT can run. Received: {self.name!r}. "
                f"LiteRT says: {error}"
            ) from error
        return self._interpreter.get_tensor(self._output_index)[:count]


def load_interpreter(
    model: str | os.PathLike | bytes, name: str, num_threads: int = 1
) -> Interpreter:
    """Return the interpreter of a model, ready to run; arguments as for `Member`.

    Raises:
        ValueError: If LiteRT cannot load the model.
    """
    source = "model_content" if isinstance(model, bytes) else "model_path"
    value = model if isinstance(model, bytes) else os.fspath(model)
    shown = f"the bytes of {name!r}" if isinstance(model, bytes) else str(value)
    if isinstance(model, bytes) and model[4:8] != b"TFL3":
        raise ValueError(
            f"Expected a .tflite model. Received: {shown}, which is not one."
        )
    try:
        interpreter = Interpreter(**{source: value}, num_threads=num_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"Expected a .tflite model that LiteRT can run. Received: {shown}. "
            f"LiteRT says: {error}"
        ) from error
    return interpreter


def _default_name(model):
    if isinstance(model, bytes):
        return "member"
    return os.path.splitext(os.path.basename(os.fspath(model)))[0]


def _input_details(interpreter, name):
    """Return LiteRT's details of the inputs by their names, in the file's order."""
    details = interpreter.get_input_details()
    signatures = interpreter.get_signature_list()
    named = {_plain_name(detail["name"]): detail for detail in details}
    if len(details) > 1 and len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        named = runner.get_input_details()
    ranks = [detail["index"] for detail in details]
    if not ranks or {detail["index"] for detail in named.values()} != {*ranks}:
        raise ValueError(
            "Expected a model of at least one input, each with a name. Received: "
            f"{name!r}, with {[detail['name'] for detail in details]}."
        )
    return dict(sorted(named.items(), key=lambda item: ranks.index(item[1]["index"])))


def _unnamed(values):
    """Return the values of several inputs by name, but the value of one as it is."""
    return values if len(values) > 1 else next(iter(values.values()))


def _plain_name(name):
    """Return a tensor's name without what TensorFlow's converter adds to it."""
    return re.sub(r":\d+$", "", name.removeprefix("serving_default_"))


def _single_output(details, name):
    if len(details) != 1:
        raise ValueError(
            f"Expected a model with one output. Received: {name!r}, with {len(details)}"
            f": {[d['name'] for d in details]}."
        )
    return details[0]


def _batch_size(inputs, name):
    shapes = [tuple(map(int, detail["shape"])) for detail in inputs.values()]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or min(sizes) < 1:
        raise ValueError(
            "Expected a model whose first input dimension is the batch. "
            f"Received: {name!r}, with inputs of shape {', '.join(map(str, shapes))}."
        )
    return sizes.pop()


def _spec(detail):
    scale, zero_point = detail["quantization"]
    shape = tuple(int(n) for n in detail["shape"][1:])
    dtype = np.dtype(detail["dtype"]).name
    return TensorSpec(shape, dtype, float(scale), int(zero_point))


def quantize(
    x: np.ndarray, dtype: str, scale: float = 0.0, zero_point: int = 0
) -> np.ndarray:
    """Round real values to the integers of a quantised tensor, half to even.

    Args:
        x: Real values of any shape.
        dtype: Dtype of the tensor. Values are clipped to the range of an integer dtype
            and cast to a float dtype.
        scale: Real value of one step. Defaults to `0.0`, not quantised.
        zero_point: Integer that represents zero. Defaults to `0`.
    """
    if not scale:
        return x.astype(dtype)
    # In place, and without the slower `np.clip`: this matters for a single image.
    steps = np.asarray(x / np.float32(scale))
    np.rint(steps, out=steps)
    steps += np.float32(zero_point)
    low, high = _limits(dtype)
    np.maximum(steps, low, out=steps)
    np.minimum(steps, high, out=steps)
    return steps.astype(dtype)


@functools.cache
def _limits(dtype):
    return np.float32(np.iinfo(dtype).min), np.float32(np.iinfo(dtype).max)


def dequantize(raw: np.ndarray, scale: float = 0.0, zero_point: int = 0) -> np.ndarray:
    """Return the real values, `float32`, of the integers of a quantised tensor."""
    values = raw.astype("float32")
    if scale:
        values -= zero_point
        values *= np.float32(scale)
    return values
