"""Importance of the channels of a group; the least important are cut first.

It is called as `importance(model, graph, gradients)`, with the gradients of the kernels
from `layers.kernel_gradients`, or `None`, and returns a float array `(channels,)` for
each group of the `ChannelGraph`. Any such function can be used. An attribute
`needs_gradients = True` requests gradients. A method `regularize(graph, importance)` is
called after each update of `callbacks.ChannelPruning`, to separate important channels
from unimportant ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_micronets._serialization import Configurable, serializable
from keras_micronets.channels.graph import ChannelGraph
from keras_micronets.layers.kernels import kernels

__all__ = ["GroupNorm", "Magnitude", "NormalizationScale", "Random", "Taylor"]

# The channel of the lowest norm is regularised 2 to this power times as much.
LARGEST_POWER = 4


class _Importance(Configurable):
    needs_gradients: ClassVar[bool] = False

    def __call__(
        self, model: keras.Model, graph: ChannelGraph, gradients: Any = None
    ) -> list[np.ndarray]:
        """Return a float array `(channels,)` for each group of the graph."""
        return self._scores(model, graph, gradients)

    def _scores(self, model, graph, gradients):
        raise NotImplementedError


@serializable(name="channels.GroupNorm")
@dataclass(frozen=True)
class GroupNorm(_Importance):
    """Score channels by the L2 norm of all their weights, in all layers of the group.

    Args:
        strength: Float in [0, 1), the regularisation strength: at each update of a
            callback the weights of a channel shrink by this share, times a factor
            from 1 for the channel of the highest norm in its group to 16 for the
            lowest. Defaults to `0.0`.

    Reference: Fang et al. 2023, "DepGraph: towards any structural pruning". Its
    regularisation has these factors in the loss; here it acts between steps.
    """

    strength: float = 0.0

    def _scores(self, model, graph, gradients):
        squares = _by_group(graph, _kernels(graph), lambda n: np.square(_values(n)))
        return [np.sqrt(scores) for scores in squares]

    def regularize(self, graph: ChannelGraph, importance: Sequence[np.ndarray]) -> None:
        """Shrink the weights of each channel, most where the importance is lowest."""
        if not self.strength:
            return
        factors = np.ones(graph.n_channels)
        for group, scores in zip(graph.groups, importance, strict=True):
            if group.reason is None:
                share = (scores.max() - scores) / max(float(np.ptp(scores)), 1e-12)
                strength = self.strength * 2 ** (LARGEST_POWER * share)
                factors[group.channels] = 1 - strength
        for node in _kernels(graph):
            factor = node.broadcast(factors[node.channels])
            node.weight.assign(_values(node) * factor)


@serializable(name="channels.Magnitude")
@dataclass(frozen=True)
class Magnitude(_Importance):
    """Score channels by the mean magnitude of the weights that produce them.

    Reference: Li et al. 2017, "Pruning filters for efficient convnets".
    """

    def _scores(self, model, graph, gradients):
        nodes = [node for node in _kernels(graph) if node.role == "produces"]
        return _by_group(graph, nodes, lambda n: np.abs(_values(n)), np.mean)


@serializable(name="channels.NormalizationScale")
@dataclass(frozen=True)
class NormalizationScale(_Importance):
    """Score channels by the magnitude of their scales in batch normalisation.

    Args:
        strength: Float, the regularisation strength: by how much the magnitude of
            each scale decreases at each update of a callback (the proximal step of
            an L1 penalty). Defaults to `0.0`.

    Reference: Liu et al. 2017, "Learning efficient convolutional networks through
    network slimming".
    """

    strength: float = 0.0

    def _scores(self, model, graph, gradients):
        return _by_group(graph, _scales(graph), lambda n: np.abs(_values(n)))

    def regularize(self, graph: ChannelGraph, importance: Any = None) -> None:
        """Move all scales closer to zero."""
        for node in _scales(graph):
            values = _values(node)
            left = np.maximum(np.abs(values) - self.strength, 0.0)
            node.weight.assign(np.sign(values) * left)


@serializable(name="channels.Taylor")
@dataclass(frozen=True)
class Taylor(_Importance):
    """Score channels by how much the loss changes without them, to first order.

    The score is the magnitude of the sum of weight times gradient over the weights that
    read the channel. It equals the sum of activation times gradient over a batch
    without recording activations, and it can score masked channels.

    Reference: Molchanov et al. 2017, "Pruning convolutional neural networks for
    resource efficient inference"; Shen et al. 2020 (arXiv:2007.01486).
    """

    needs_gradients: ClassVar[bool] = True

    def _scores(self, model, graph, gradients):
        if gradients is None:
            raise ValueError(
                "Expected gradients of the kernels, as "
                "`layers.kernel_gradients(model, x, y)` returns them. Received: None. "
                "Give the callback `data` to compute them on."
            )
        pairs = zip(kernels(model), gradients, strict=True)
        by_kernel = {id(kernel.variable): gradient for kernel, gradient in pairs}
        reading = [node for node in graph.nodes if node.role == "reads"]
        nodes = [node for node in reading if id(node.weight) in by_kernel]
        changes = _by_group(
            graph, nodes, lambda n: _values(n) * by_kernel[id(n.weight)]
        )
        return [np.abs(scores) for scores in changes]


@serializable(name="channels.Random")
@dataclass(frozen=True)
class Random(_Importance):
    """Score channels at random: a baseline for the other scores.

    Args:
        seed: Integer. Defaults to `0`.
    """

    seed: int = 0

    def _scores(self, model, graph, gradients):
        rng = np.random.default_rng(self.seed)
        return [rng.uniform(0.5, 1.5, len(group.channels)) for group in graph.groups]


def _kernels(graph):
    return [n for n in graph.nodes if n.weight is not None and len(n.weight.shape) > 1]


def _scales(graph):
    norms = keras.layers.BatchNormalization
    nodes = [node for node in graph.nodes if isinstance(node.layer, norms)]
    return [node for node in nodes if node.weight is node.layer.gamma]


def _by_group(graph, nodes, measure, reduce=np.sum):
    """Reduce a measure of weights to one axis, and sum it for each channel."""
    totals = np.zeros(graph.n_channels)
    for node in nodes:
        values = measure(node)
        others = tuple(axis for axis in range(values.ndim) if axis != node.axis)
        np.add.at(totals, node.channels, reduce(values, axis=others))
    return [totals[group.channels] for group in graph.groups]


def _values(node):
    return ops.convert_to_numpy(node.weight).astype("float32")
