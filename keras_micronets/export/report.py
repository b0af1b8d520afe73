"""Report on an exported file."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ExportReport", "Parity"]


@dataclass(frozen=True)
class Parity:
    """Compare one output of a file with the Keras model's output.

    Attributes:
        name: Name of the output in Keras.
        largest_difference: Largest difference, in quantisation steps for a quantised
            output and in real units for any other, such as the indices of `argmax`.
        share_within_one_step: Share of the values that differ by at most one step;
            `None` for an output that is not quantised.
        top1_agreement: Share of the samples whose largest value has the same index
            on the last axis; share of equal values for an output of indices.
    """

    name: str
    largest_difference: float
    share_within_one_step: float | None
    top1_agreement: float

    def __str__(self) -> str:
        unit = "" if self.share_within_one_step is None else " steps"
        return (
            f"largest difference {self.largest_difference:.3g}{unit}, "
            f"same class in {self.top1_agreement:.1%}"
        )


@dataclass(frozen=True)
class ExportReport:
    """Describe the file that `export_tflite` wrote; it prints as a table.

    Attributes:
        path: Path of the file.
        quantization: `"int8"`, `"int16"`, `"float16"`, `"dynamic"` or `None`.
        calibration: Where an integer file's ranges come from, `"learned"` or
            `"representative data"`; `None` for the others.
        n_bytes: Size in bytes.
        gzip_bytes: Size in bytes after gzip.
        operations: Number of operations by type.
        float_operations: Those that compute in floating point.
        weight_bytes: Bytes of the kernels by the type in the file (`"int8"`,
            `"int4"`, `"float16"`, ...).
        sparse_storage: Whether a file without the zeros was kept, and why not;
            `None` if it was not asked for.
        n_masked: Number of weights that the model's masks remove.
        n_zeros: Number of integer weights that are zero in the file, by masks or by
            rounding.
        n_weights: Number of integer weights in the file.
        latency: Median time of one inference on this machine in milliseconds, on one
            thread, for a batch of `batch_size`, 1 where that is open.
        n_compared: Number of samples on which file and Keras model were compared.
        compared_on: What these samples were, `"representative data"` or `"noise"`.
        outputs: A `Parity` for each output.
    """

    path: Path
    quantization: str | None
    calibration: str | None
    n_bytes: int
    gzip_bytes: int
    operations: Counter
    float_operations: Counter
    weight_bytes: Counter
    sparse_storage: str | None
    n_masked: int
    n_zeros: int
    n_weights: int
    latency: float
    n_compared: int
    compared_on: str
    outputs: tuple[Parity, ...]

    @property
    def largest_difference(self) -> float:
        """The largest difference of any output, in its own unit."""
        return max(output.largest_difference for output in self.outputs)

    @property
    def share_within_one_step(self) -> float | None:
        """The smallest share of any integer output; `None` without one."""
        shares = [output.share_within_one_step for output in self.outputs]
        return min((x for x in shares if x is not None), default=None)

    @property
    def top1_agreement(self) -> float:
        """The smallest agreement of any output."""
        return min(output.top1_agreement for output in self.outputs)

    def __str__(self) -> str:
        source = f", ranges {self.calibration}" if self.calibration else ""
        rows = [
            ("file", f"{self.path}"),
            ("quantisation", f"{self.quantization or 'none'}{source}"),
            ("size", f"{self.n_bytes:,} bytes, {self.gzip_bytes:,} gzipped"),
            ("weights", _sizes(self.weight_bytes)),
            ("zeros", self._zeros()),
            ("sparse storage", self.sparse_storage),
            ("operations", _counts(self.operations)),
            ("in float", _counts(self.float_operations)),
            ("latency", f"{self.latency:.3g} ms on this machine, one thread"),
            ("against Keras", f"\n{'':<15}".join(self._parities())),
        ]
        return "\n".join(f"{name:<14} {value}" for name, value in rows if value)

    def _zeros(self):
        if not self.n_weights:
            return f"{self.n_masked:,} weights masked"
        return (
            f"{self.n_zeros:,} of {self.n_weights:,} integer weights, "
            f"{self.n_masked:,} of them masked"
        )

    def _parities(self):
        samples = f"{self.n_compared} samples of {self.compared_on}"
        rows = [f"{parity} of {samples}" for parity in self.outputs]
        if len(rows) == 1:
            return rows
        return [f"{p.name}: {row}" for p, row in zip(self.outputs, rows, strict=True)]


def _counts(counter):
    return ", ".join(f"{n} {name}" for name, n in counter.most_common()) or "none"


def _sizes(counter):
    parts = [f"{n:,} bytes {name}" for name, n in counter.most_common()]
    return ", ".join(parts) or "none"
