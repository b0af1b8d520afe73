from dataclasses import dataclass

import numpy as np

from keras_micronets.sparsity.units import Units, mean_of_live


@dataclass(frozen=True)
class Block(Units):
    """Remove blocks of weights that follow each other along the input.

    LiteRT runs fully connected layers with such blocks sparse: of 4 in float, of 16
    in int8. Blocks are compared by the mean score of their weights. Where the
    input is no multiple of the size, the last block of each output is shorter. Zeros
    that lie otherwise before (from unstructured pruning) stay.

    Args:
        size: Integer, weights a block.

    Raises:
        ValueError: If the size is not positive.

    Example:

    ```python
    Block(2).mask(np.array([[1.0], [4.0], [3.0], [3.0]]), 2)
    # [[False], [False], [True], [True]]
    ```
    """

    size: int

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(
                "Expected blocks of 1 or more weights, as Block(4). "
                f"Received: size={self.size}."
            )

    def units(self, scores, alive):
        n_inputs = scores.shape[-2]
        starts = np.arange(0, n_inputs, self.size)
        lengths = np.minimum(self.size, n_inputs - starts)[:, None]
        live = np.add.reduceat(alive, starts, axis=-2, dtype=np.int32)
        scores = np.where(alive, scores, np.float32(0))
        sums = np.add.reduceat(scores, starts, axis=-2)
        return mean_of_live(sums, live, lengths), live

    def spread(self, values, shape):
        return np.repeat(values, self.size, axis=-2)[..., : shape[-2], :]
