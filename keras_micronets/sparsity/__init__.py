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
from keras_micronets.sparsity.block import Block
from keras_micronets.sparsity.channels import Channels
from keras_micronets.sparsity.criteria import (
    as_criterion,
    magnitude,
    needs_gradients,
    taylor,
)
from keras_micronets.sparsity.growth import drop_and_grow
from keras_micronets.sparsity.masks import complement, keep_largest, random_halves
from keras_micronets.sparsity.movement import Movement
from keras_micronets.sparsity.n_of_m import NofM
from keras_micronets.sparsity.random import Random
from keras_micronets.sparsity.unstructured import Unstructured
