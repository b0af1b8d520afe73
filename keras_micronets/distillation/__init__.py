"""Train one small network on the outputs of a better model."""

from keras_micronets.distillation.augmentation import split_augmentation
from keras_micronets.distillation.distill import distill

__all__ = ["distill", "split_augmentation"]
