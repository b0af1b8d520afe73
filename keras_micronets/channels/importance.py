"""Importance of the channels of a group; the least important are cut first.

It is called as `importance(model, graph, gradients)`, with the gradients of the
kernels as `layers.kernel_gradients` returns them, or `None`, and returns a float array
`(channels,)` for each group of the `ChannelGraph`. Any such function will do. If it has
a method `regularize(graph, importance)`, that is called after each update, to part the
channels that matter from those that do not.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.layers.kernels import kernels

# Of 2, by which the regularisation of the lowest norm is stronger.
LARGEST_POWER = 4


@dataclass(frozen=True)
class GroupNorm:
    """The L2 norm of all weights that a channel has, in all layers of its group.

    Args:
        strength: Float in [0, 1): at each update of a callback the weights of a
            channel shrink by this share, times a factor that grows from 1 for the
            channel of the highest norm in a group to 16 for the lowest. Defaults to
            `0.0`.

    Reference: Fang et al. 2023, "DepGraph: towards any structural pruning", whose
    regularisation grows so; here it acts between steps, not in the loss.
    """

    strength: float = 0.0
    needs_gradients = False

    def __call__(self, model, graph: ChannelGraph, gradients=None):
        def squares(node):
            return _summed(np.square(_values(node.weight)), node.axis)

        weighted = filter(_is_kernel, graph.nodes)
        return [np.sqrt(own) for own in _by_group(graph, weighted, squares)]

    def regularize(self, graph: ChannelGraph, importance) -> None:
        """Shrink the weights of each channel, those of small norm most."""
        if not self.strength:
            return
        factors = np.ones(graph.n_channels)
        for group, own in zip(graph.groups, importance, strict=True):
            if group.reason is None:
                share = (own.max() - own) / max(float(np.ptp(own)), 1e-12)
                strength = self.strength * 2 ** (LARGEST_POWER * share)
                factors[group.channels] = 1 - strength
        for node in filter(_is_kernel, graph.nodes):
            along = node.along(factors[node.channels])
            node.weight.assign(_values(node.weight) * along)


@dataclass(frozen=True)
class Magnitude:
    """The mean magnitude of the weights that make a channel: its filters.

    Reference: Li et al. 2017, "Pruning filters for efficient convnets".
    """

    needs_gradients = False

    def __call__(self, model, graph: ChannelGraph, gradients=None):
        def magnitudes(node):
            values = np.abs(_values(node.weight))
            return _summed(values, node.axis) / (values.size / values.shape[node.axis])

        makers = [n for n in graph.nodes if _is_kernel(n) and n.role == "makes"]
        return _by_group(graph, makers, magnitudes)


@dataclass(frozen=True)
class NormalizationScale:
    """The magnitude of a channel's scales in batch normalisation.

    Args:
        step: Float, by how much all these scales come closer to zero at each update
            of a callback: the proximal step of an L1 penalty. Defaults to `0.0`.

    Reference: Liu et al. 2017, "Learning efficient convolutional networks through
    network slimming".
    """

    step: float = 0.0
    needs_gradients = False

    def __call__(self, model, graph: ChannelGraph, gradients=None):
        def scales(node):
            return np.abs(_values(node.weight))

        return _by_group(graph, _scales(graph), scales)

    def regularize(self, graph: ChannelGraph, importance) -> None:
        """Bring all scales closer to zero."""
        for node in _scales(graph):
            values = _values(node.weight)
            left = np.maximum(np.abs(values) - self.step, 0.0)
            node.weight.assign(np.sign(values) * left)


@dataclass(frozen=True)
class Taylor:
    """How much the loss changes, to first order, as a channel goes.

    That is the sum, over the weights that read the channel, of weight times gradient:
    what the values of the channel times their gradients sum up to over a batch. It
    needs no trace of activations, and tells of a masked channel what it would bring.

    Reference: Molchanov et al. 2017, "Pruning convolutional neural networks for
    resource efficient inference"; Shen et al. 2020 (arXiv:2007.01486).
    """

    needs_gradients = True

    def __call__(self, model, graph: ChannelGraph, gradients=None):
        if gradients is None:
            raise ValueError(
                "Expected gradients of the kernels, as "
                "`layers.kernel_gradients(model, x, y)` returns them. Received: None. "
                "Give the callback `data` to take them on."
            )
        pairs = zip(kernels(model), gradients, strict=True)
        found = {id(kernel.variable): own for kernel, own in pairs}

        def changes(node):
            return _summed(_values(node.weight) * found[id(node.weight)], node.axis)

        readers = [
            n for n in graph.nodes if n.role == "reads" and id(n.weight) in found
        ]
        return [np.abs(own) for own in _by_group(graph, readers, changes)]


@dataclass(frozen=True)
class Random:
    """Random numbers: the control that any other importance has to beat.

    Args:
        seed: Integer. Defaults to `0`.
    """

    seed: int = 0
    needs_gradients = False

    def __call__(self, model, graph: ChannelGraph, gradients=None):
        rng = np.random.default_rng(self.seed)
        return [rng.uniform(0.5, 1.5, len(group.channels)) for group in graph.groups]


def _scales(graph):
    return [
        node
        for node in graph.nodes
        if isinstance(node.layer, keras.layers.BatchNormalization)
        and node.weight is node.layer.gamma
    ]


def _is_kernel(node):
    return node.weight is not None and len(node.weight.shape) > 1


def _by_group(graph, nodes, measure):
    """Sum a measure of nodes over the indices that each channel has in them."""
    totals = np.zeros(graph.n_channels)
    for node in nodes:
        np.add.at(totals, node.channels, measure(node))
    return [totals[group.channels] for group in graph.groups]


def _values(variable):
    return ops.convert_to_numpy(variable).astype("float32")


def _summed(values, axis):
    return values.sum(axis=tuple(a for a in range(values.ndim) if a != axis))
