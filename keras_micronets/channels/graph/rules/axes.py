"""What rules have in common."""

import keras


def weight(layer, name: str) -> keras.Variable:
    """Return a variable of a layer, a twin's raw kernel."""
    raw = getattr(layer, "raw", None)
    return raw(name) if raw and name in layer.kernel_names else getattr(layer, name)


def channels_of(walk, layer, flow):
    """Return the channels that a convolution reads, and their axis; freeze others."""
    rank = len(flow.shape)
    axis = 1 if layer.data_format == "channels_first" else rank - 1
    walk.freeze(flow, f"{layer.name} slides along their axis", but=(axis,))
    return walk.channels(flow, axis), axis


def places(shape, axis: int) -> list[int]:
    """Return the axes along which a convolution slides."""
    return [place for place in range(1, len(shape)) if place != axis]


def made(walk, layer, kernel, axis, setting, repeats=1):
    """Return the channels that a kernel makes, which a bias has, too."""
    out = walk.make(layer, kernel, axis, setting, repeats)
    follow(walk, layer, out, "bias")
    return out


def follow(walk, layer, channels, *names: str) -> None:
    """Note that vectors of a layer have an element for each channel."""
    for name in names:
        weight = getattr(layer, name, None)
        if weight is not None:
            walk.bind(layer, weight, 0, channels)
