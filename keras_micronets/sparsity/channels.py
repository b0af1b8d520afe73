from dataclasses import dataclass

import numpy as np

from keras_micronets.sparsity.units import Units, mean_of_live


@dataclass(frozen=True)
class Channels(Units):
    """Remove whole outputs of a kernel: filters of a convolution, units of a Dense.

    Channels are compared by the mean score of their weights. Leave out the last
    layer (`layers.Scope(last=False)`), whose outputs are the classes. The layers keep
    their shapes: what is removed is zeros. Zeros that lie otherwise before stay.

    Example:

    ```python
    Channels().mask(np.array([[1.0, 3.0], [4.0, 3.0]]), 2)
    # [[False, True], [False, True]]
    ```
    """

    def units(self, scores, alive):
        axes = tuple(range(scores.ndim - 1))
        live = np.count_nonzero(alive, axis=axes)
        sums = np.sum(scores, axis=axes, where=alive)
        return mean_of_live(sums, live, scores.size // scores.shape[-1]), live

    def spread(self, values, shape):
        return np.broadcast_to(values, shape)
