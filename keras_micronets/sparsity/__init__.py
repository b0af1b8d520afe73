"""Which weights to remove: arrays in, masks out. No model, no layer."""

from keras_micronets.sparsity.allocation import allocate_over_model, allocate_per_layer
from keras_micronets.sparsity.criteria import magnitude
from keras_micronets.sparsity.masks import keep_largest
