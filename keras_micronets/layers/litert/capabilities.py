import math

import keras


def limit_of(layer) -> float | None:
    """Return where a rectifier that LiteRT fuses cuts values off: 6 or infinity.

    Args:
        layer: A layer. For any that is no such rectifier `None` is returned.
    """
    if isinstance(layer, keras.layers.Activation):
        if layer.activation is keras.activations.relu:
            return math.inf
        return 6.0 if layer.activation is keras.activations.relu6 else None
    is_relu = isinstance(layer, keras.layers.ReLU)
    if is_relu and (layer.negative_slope, layer.threshold) == (0, 0):
        return {None: math.inf, 6: 6.0}.get(layer.max_value)
    return None
