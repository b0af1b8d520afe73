from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_micronets.layers.device.constant import Constant
from keras_micronets.layers.device.source import Exact


@dataclass(frozen=True)
class Multiples(Exact):
    """Behind the product of a tensor that a quantiser rounded with a constant.

    Attributes:
        inputs: The `ActivationQuantizer` of the tensor.
        constant: The `Constant`.
    """

    inputs: Any
    constant: Constant

    def integers(self, values, target):
        own, constant = self.inputs.scale(), self.constant
        value = np.where(constant.value == 0, np.float32(1), constant.value)
        integers = ops.round(ops.divide(values, ops.multiply(own, value)))
        products = ops.multiply(integers, constant.integers())
        scale = ops.multiply(own, constant.scale())
        return ops.round(ops.multiply(products, ops.divide(scale, target.scale())))
