"""Run a `.tflite` file with any number of inputs and outputs on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_micronets.edge.bench import interleaved_medians
from keras_micronets.edge.member import Member, load_interpreter, quantize
from keras_micronets.export.report import ExportReport

__all__ = ["ConvertedFile", "TFLiteModel", "TensorInfo"]

REPEATS = 15


@dataclass(frozen=True)
class TensorInfo:
    """Describe an input or output of a file.

    Attributes:
        index: LiteRT's index of the tensor.
        shape: Its shape, batch included, with the file's defaults for open sizes.
        dtype: Name of a NumPy dtype.
        scale: Real value of one quantisation step; 0.0 for a float tensor.
        zero_point: Step that represents zero.
        is_open: Whether the file leaves one of its sizes open.
        has_open_batch: Whether it leaves the batch open.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    is_open: bool
    has_open_batch: bool = False

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Round real values to this tensor's steps; a cast for a float tensor."""
        return quantize(x, self.dtype, self.scale, self.zero_point)

    def limits(self) -> tuple[float, float] | None:
        """Return the smallest and largest real value; `None` for a float tensor."""
        if not self.scale:
            return None
        steps = np.iinfo(self.dtype)
        return (
            float((steps.min - self.zero_point) * self.scale),
            float((steps.max - self.zero_point) * self.scale),
        )


class TFLiteModel:
    """Run a `.tflite` file with any number of inputs and outputs on this machine.

    Args:
        content: The bytes of the file.
        name: Name used in messages.

    Attributes:
        interpreter: LiteRT's interpreter.
        inputs, outputs: A `TensorInfo` for each.

    Raises:
        ValueError: If LiteRT cannot load the file.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.interpreter = load_interpreter(content, name)
        self.inputs = [_info(x) for x in self.interpreter.get_input_details()]
        self.outputs = [_info(x) for x in self.interpreter.get_output_details()]

    def run(self, inputs: list[Any]) -> list[np.ndarray]:
        """Return the raw outputs, integer steps for an integer file.

        Args:
            inputs: Array of real values `(samples, ...)` for each input. A file
                with an open batch takes them all at once.
        """
        n_samples = len(inputs[0])
        is_open = any(info.has_open_batch for info in self.inputs)
        size = n_samples if is_open else self.inputs[0].shape[0]
        steps = [
            _fill_batches(info.quantize(x), size)
            for info, x in zip(self.inputs, inputs, strict=True)
        ]
        batches = [
            self._invoke([x[start : start + size] for x in steps])
            for start in range(0, n_samples, size)
        ]
        return [
            np.concatenate(parts)[:n_samples] for parts in zip(*batches, strict=True)
        ]

    def latency(self) -> float:
        """Return the median time of one invocation in milliseconds.

        One thread; the batch of the file, or 1 where that is open.
        """
        return interleaved_medians([self.invocation()], repeats=REPEATS)[0]

    def invocation(self) -> Callable[[], None]:
        """Return a function that runs the file once on zeros, for timing."""
        self._invoke([np.zeros(info.shape, info.dtype) for info in self.inputs])
        return self.interpreter.invoke

    def _invoke(self, inputs):
        for info, x in zip(self.inputs, inputs, strict=True):
            if info.is_open:
                self.interpreter.resize_tensor_input(info.index, x.shape)
        self.interpreter.allocate_tensors()
        for info, x in zip(self.inputs, inputs, strict=True):
            self.interpreter.set_tensor(info.index, x)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(info.index) for info in self.outputs]


def _info(detail):
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        index=detail["index"],
        shape=tuple(int(n) for n in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
        is_open=-1 in detail["shape_signature"],
        has_open_batch=-1 in detail["shape_signature"][:1],
    )


def _fill_batches(x, size):
    """Repeat the last row until the last batch is full."""
    missing = -len(x) % size
    return np.concatenate([x, np.repeat(x[-1:], missing, 0)]) if missing else x


@dataclass(frozen=True)
class ConvertedFile:
    """Hold a converted and verified `.tflite` file.

    Attributes:
        content: The bytes of the file.
        report: The `ExportReport`.
        model: The file as LiteRT has loaded it; `None` if another process did.
    """

    content: bytes
    report: ExportReport
    model: TFLiteModel | None

    def as_member(
        self, name: str, *, from_logits: bool, task: str = "multiclass"
    ) -> Member:
        """Return a `Member` that runs the file; it is loaded again only if needed."""
        # The comparison resizes open inputs, and a member keeps the size it finds.
        if self.model is None or any(info.is_open for info in self.model.inputs):
            return Member(self.content, name=name, from_logits=from_logits, task=task)
        return Member.from_interpreter(
            self.model.interpreter,
            n_bytes=len(self.content),
            name=name,
            from_logits=from_logits,
            task=task,
        )
