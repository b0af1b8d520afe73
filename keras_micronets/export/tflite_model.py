from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import load_interpreter, quantize

REPEATS = 15


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one of its inputs or outputs.

    Attributes:
        index: LiteRT's number of it.
        shape: Its shape, batch included; 1 where the file leaves a size open.
        dtype: Name of a NumPy dtype.
        scale: Real value of one step; 0.0 for a float tensor.
        zero_point: Step that stands for zero.
        is_open: Whether the file leaves one of its sizes open.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    is_open: bool

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Round real values to this tensor's steps; a cast for a float tensor."""
        return quantize(x, self.dtype, self.scale, self.zero_point)

    def limits(self) -> tuple[float, float] | None:
        """Return the least and largest real value it can hold; `None` for floats."""
        if not self.scale:
            return None
        steps = np.iinfo(self.dtype)
        return tuple(
            float((step - self.zero_point) * self.scale)
            for step in (steps.min, steps.max)
        )


class TFLiteModel:
    """Run a `.tflite` file with any number of inputs and outputs on this machine.

    Args:
        content: The bytes of the file.
        name: Name used in messages.

    Attributes:
        inputs, outputs: A `TensorInfo` each.

    Raises:
        ValueError: If LiteRT cannot load the file.
    """

    def __init__(self, content: bytes, name: str):
        self._interpreter = load_interpreter(content, name)
        self.inputs = [_info(x) for x in self._interpreter.get_input_details()]
        self.outputs = [_info(x) for x in self._interpreter.get_output_details()]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs as they are, integer steps for an integer file.

        Args:
            inputs: Array of real values `(samples, ...)` for each input. A file
                with an open batch takes them all at once.
        """
        n_samples = len(inputs[0])
        is_open = any(info.is_open for info in self.inputs)
        size = n_samples if is_open else self.inputs[0].shape[0]
        steps = [
            _filled_up(info.quantize(x), size)
            for info, x in zip(self.inputs, inputs, strict=True)
        ]
        chunks = [
            self._invoke([x[start : start + size] for x in steps])
            for start in range(0, n_samples, size)
        ]
        return [
            np.concatenate(parts)[:n_samples] for parts in zip(*chunks, strict=True)
        ]

    def latency(self) -> float:
        """Return the median time of one invocation in milliseconds.

        One thread; the batch of the file, or 1 where that is open.
        """
        return interleaved_medians([self.invocation()], repeats=REPEATS)[0]

    def invocation(self) -> Callable[[], None]:
        """Return a function that runs the file once, on zeros, to be timed."""
        self._invoke([np.zeros(info.shape, info.dtype) for info in self.inputs])
        return self._interpreter.invoke

    def _invoke(self, inputs):
        self._resize(inputs)
        for info, x in zip(self.inputs, inputs, strict=True):
            self._interpreter.set_tensor(info.index, x)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(info.index) for info in self.outputs]

    def _resize(self, inputs):
        for info, x in zip(self.inputs, inputs, strict=True):
            if info.is_open:
                self._interpreter.resize_tensor_input(info.index, x.shape)
        self._interpreter.allocate_tensors()


def _info(detail):
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        index=detail["index"],
        shape=tuple(int(n) for n in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
        is_open=-1 in detail["shape_signature"],
    )


def _filled_up(x, size):
    """Repeat the last row until the batches of a fixed size are full."""
    missing = -len(x) % size
    return np.concatenate([x, np.repeat(x[-1:], missing, 0)]) if missing else x
