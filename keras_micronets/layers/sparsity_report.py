from dataclasses import dataclass

import keras

from keras_micronets.layers.kernel import kernels


@dataclass(frozen=True)
class SparsityReport:
    """How sparse the kernels of a model are; it prints as a table.

    Attributes:
        rows: For each kernel `(path, shape, n_weights, n_masked)`.
    """

    rows: tuple[tuple[str, tuple[int, ...], int, int], ...]

    @property
    def sparsity(self) -> float:
        """The share of all maskable weights that the masks remove."""
        masked = sum(row[3] for row in self.rows)
        return masked / max(1, sum(row[2] for row in self.rows))

    def __str__(self):
        lines = [f"{'kernel':<28}{'shape':>18}{'weights':>10}{'sparsity':>10}"]
        for path, shape, size, masked in self.rows:
            share = f"{masked / size:.1%}"
            lines.append(f"{path:<28}{shape!s:>18}{size:>10,}{share:>10}")
        total = sum(row[2] for row in self.rows)
        lines.append(f"{'all':<28}{'':>18}{total:>10,}{self.sparsity:>10.1%}")
        return "\n".join(lines)


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Return how sparse each kernel of a model is.

    Args:
        model: A built Keras model; one that was never promoted has no rows.

    Example:

    ```python
    print(keras_micronets.sparsity_report(model))
    ```
    """
    rows = [
        (k.path, tuple(k.mask.shape), k.size, int(k.size - k.mask.sum()))
        for k in kernels(model)
    ]
    return SparsityReport(tuple(rows))
