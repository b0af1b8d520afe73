"""Which weights to remove: arrays in, masks out. No model, no layer.

Patterns take kernels in the canonical layout, whose last two axes are the inputs and
the outputs. Each has `mask(scores, n_removed)`, and `pooled(scores)` for allocations.
"""

from keras_micronets.sparsity.allocation import (
    ALLOCATIONS,
    as_allocation,
    erdos_renyi_kernel,
    global_ranking,
    uniform,
)
from keras_micronets.sparsity.importance import (
    Movement,
    Random,
    as_criterion,
    magnitude,
    needs_gradients,
    taylor,
)
from keras_micronets.sparsity.masks import (
    complement,
    drop_and_grow,
    keep_largest,
    random_halves,
)
from keras_micronets.sparsity.patterns import Block, Channels, NofM, Unstructured
