from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportReport:
    """What `export_tflite` wrote, and how it compares with the Keras model.

    Attributes:
        path: The file.
        quantization: `"int8"`, `"float16"`, `"dynamic"` or `None`.
        calibration: Where an int8 file's ranges come from: `"learned"` while
            training, `"representative data"`, or `None` for the others.
        n_bytes: Size in bytes.
        gzip_bytes: Size in bytes after gzip.
        operations: Number of operations by type.
        float_operations: Those that compute in floating point.
        n_masked: Weights that the model's masks remove.
        n_zeros: Int8 weights that are zero in the file; rounding adds some to
            the masked ones.
        n_weights: Int8 weights in the file.
        n_compared: Samples on which file and Keras model were compared.
        largest_difference: Largest difference of their outputs, in quantisation
            steps for integer outputs and in real units for float ones.
        share_within_one_step: Share of the outputs that differ by one step at
            most; `None` for float outputs.
        top1_agreement: Share of the samples with the same most probable class.
    """

    path: Path
    quantization: str | None
    calibration: str | None
    n_bytes: int
    gzip_bytes: int
    operations: Counter
    float_operations: Counter
    n_masked: int
    n_zeros: int
    n_weights: int
    n_compared: int
    largest_difference: float
    share_within_one_step: float | None
    top1_agreement: float

    def __str__(self):
        rows = [
            ("file", f"{self.path}"),
            ("quantisation", self._kind()),
            ("size", f"{self.n_bytes:,} bytes, {self.gzip_bytes:,} gzipped"),
            ("operations", _counts(self.operations)),
            ("in float", _counts(self.float_operations)),
            ("zeros", self._zeros()),
            ("against Keras", self._parity()),
        ]
        return "\n".join(f"{name:<14} {value}" for name, value in rows)

    def _kind(self):
        source = f", ranges {self.calibration}" if self.calibration else ""
        return f"{self.quantization or 'none'}{source}"

    def _zeros(self):
        if not self.n_weights:
            return f"{self.n_masked:,} weights masked"
        return (
            f"{self.n_zeros:,} of {self.n_weights:,} int8 weights, "
            f"{self.n_masked:,} of them masked"
        )

    def _parity(self):
        unit = "" if self.share_within_one_step is None else " steps"
        return (
            f"largest difference {self.largest_difference:.3g}{unit}, same class in "
            f"{self.top1_agreement:.1%} of {self.n_compared} samples"
        )


def _counts(counter):
    return ", ".join(f"{n} {name}" for name, n in counter.most_common()) or "none"
