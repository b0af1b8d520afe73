"""Choose the weights to remove: arrays in, masks out, without models or layers."""

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
    as_importance,
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
from keras_micronets.sparsity.patterns import (
    Block,
    Channels,
    NofM,
    Pattern,
    Units,
    Unstructured,
)

__all__ = [
    "ALLOCATIONS",
    "Block",
    "Channels",
    "Movement",
    "NofM",
    "Pattern",
    "Random",
    "Units",
    "Unstructured",
    "as_allocation",
    "as_importance",
    "complement",
    "drop_and_grow",
    "erdos_renyi_kernel",
    "global_ranking",
    "keep_largest",
    "magnitude",
    "needs_gradients",
    "random_halves",
    "taylor",
    "uniform",
]
