"""How the mask of a cycle is drawn.

A draw is any function `draw(model, index, seed)` that sets the masks of a prepared
model; `index` counts the cycles from 0. What it draws must depend on these alone, so
that a run that was killed draws the same again.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from keras_micronets import channels, layers
from keras_micronets.callbacks.base import chosen_kernels
from keras_micronets.callbacks.dynamic_sparse_training import drop_and_regrow
from keras_micronets.callbacks.weight_pruning import prune
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import Unstructured


@dataclass(frozen=True)
class Magnitude:
    """Keep the largest weights, to a sparsity that may be drawn at random.

    Masks are drawn anew: what the model's masks removed before may come back, at
    zero.

    Args:
        sparsity: Float in [0, 1), or a pair of them between which each cycle draws
            its own, uniformly and rounded to two decimals.
        tilt: Float, 0 or more, the spread of the random factors (log-normal) that
            tilt the ranking, so that learners of one parent differ. Defaults to
            `0.0`.
        allocation: `"uniform"`, `"global"` or `"erk"`, as for `WeightPruning`.
            Defaults to `"uniform"`.
        pattern: One of the patterns of `keras_micronets.sparsity`. `None` for single
            weights. Defaults to `None`.
        scope: A `keras_micronets.layers.Scope`. `None` for all kernels. Defaults to
            `None`.

    Raises:
        ValueError: If a sparsity lies outside [0, 1), or the tilt is negative.
    """

    sparsity: float | tuple[float, float]
    tilt: float = 0.0
    allocation: str = "uniform"
    pattern: object | None = None
    scope: layers.Scope | None = None

    def __post_init__(self):
        for value in np.atleast_1d(self.sparsity):
            check_sparsity(float(value), "sparsity")
        _check_tilt(self.tilt)

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        rng = np.random.default_rng((seed, index))
        low, high = np.broadcast_to(self.sparsity, 2)
        sparsity = round(float(rng.uniform(low, high)), 2) if low < high else float(low)
        _keep_all(model, self.scope)
        prune(
            model,
            sparsity,
            criterion=_Tilted(self.tilt, rng) if self.tilt else "magnitude",
            allocation=self.allocation,
            pattern=self.pattern,
            scope=self.scope,
        )


@dataclass(frozen=True)
class _Tilted:
    """Magnitude times a random factor."""

    tilt: float
    rng: np.random.Generator
    needs_gradients = False

    def __call__(self, weights, gradients=None):
        factors = np.exp(self.tilt * self.rng.standard_normal(weights.shape, "float32"))
        return np.abs(weights) * factors


@dataclass(frozen=True)
class Channels:
    """Keep whole channels, to a budget, so that a learner can run in less time.

    Masks are drawn anew, over all kernels that read channels. In a `Cycle` that is
    `compact` the learner is kept without the channels that nothing reads: a network of
    a shape of its own.

    Args:
        params: Float in (0, 1], the share of parameters that a learner may keep. `None`
            for any. Defaults to `None`.
        macs: The same for multiply-accumulates; see `channels.plan`.
        tilt: Float, 0 or more, the spread of the random factors (log-normal) that tilt
            the ranking, so that learners of one parent differ. Defaults to `0.5`.
        importance: One of `keras_micronets.channels.importance` that needs no
            gradients. `None` for `GroupNorm()`. Defaults to `None`.
        round_to, min_channels: As for `channels.plan`.

    Raises:
        ValueError: If the tilt is negative; when a cycle begins, as `channels.plan`.
    """

    params: float | None = None
    macs: float | None = None
    tilt: float = 0.5
    importance: object | None = None
    round_to: int = 8
    min_channels: int = 8

    def __post_init__(self):
        _check_tilt(self.tilt)

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        planner = channels.Planner(
            model, round_to=self.round_to, min_channels=self.min_channels, masked=True
        )
        rng = np.random.default_rng((seed, index))
        importance = self.importance or channels.importance.GroupNorm()
        scores = [
            own * np.exp(self.tilt * rng.standard_normal(own.shape))
            for own in importance(model, planner.graph, None)
        ]
        plan = planner.plan(scores, params=self.params, macs=self.macs)
        channels.mask_channels(model, planner.graph, plan)


@dataclass(frozen=True)
class RandomHalves:
    """Keep a random half of each kernel, and in the next cycle the other half.

    Args:
        pattern: One of the patterns of `keras_micronets.sparsity`: whole channels,
            blocks or N:M instead of single weights. `None` for single weights.
            Defaults to `None`.
        scope: A `keras_micronets.layers.Scope`. Defaults to all kernels but the
            last, which keeps its weights.

    Reference: Whitaker and Whitley 2022, "Prune and Tune Ensembles: Low-Cost
    Ensemble Learning With Sparse Independent Subnetworks".
    """

    pattern: object | None = None
    scope: layers.Scope = field(default_factory=lambda: layers.Scope(last=False))

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        rng = np.random.default_rng((seed, index // 2))
        pattern = self.pattern or Unstructured()
        for kernel in self.scope(model):
            layout = kernel.layout
            scores = layout.canonical(rng.random(kernel.mask.shape, "float32"))
            half = layout.restore(pattern.mask(scores, kernel.size // 2))
            kernel.set_mask(~half if index % 2 else half)


@dataclass(frozen=True)
class Regrow:
    """Drop the smallest weights and grow as many elsewhere, to leave the last basin.

    Args:
        fraction: Float in [0, 1], of the weights that are kept. Defaults to `0.8`.
        first: Boolean, whether the first cycle moves connections too; otherwise it
            keeps the masks that it finds. Defaults to `False`.
        data: What growth by gradients measures them on, as for
            `DynamicSparseTraining`: one batch is taken. `None` to grow at random.
            Defaults to `None`.
        scope: A `keras_micronets.layers.Scope`. `None` for all kernels. Defaults to
            `None`.

    Reference: Liu et al. 2022, "Deep Ensembling with No Overhead for either Training
    or Testing: The All-Round Blessings of Dynamic Sparsity".
    """

    fraction: float = 0.8
    first: bool = False
    data: object | None = field(default=None, repr=False)
    scope: layers.Scope | None = None

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        if index == 0 and not self.first:
            return
        gradients = None
        if self.data is not None:
            batches = layers.batches(self.data, seed=seed, start=index)
            gradients = layers.kernel_gradients(model, *next(batches))
        drop_and_regrow(
            model,
            self.fraction,
            gradients=gradients,
            scope=self.scope,
            seed=(seed, index),
        )


def _check_tilt(tilt):
    if tilt < 0:
        raise ValueError(f"Expected `tilt` to be 0 or more. Received: tilt={tilt}.")


def _keep_all(model, scope):
    for kernel in chosen_kernels(model, scope):
        kernel.set_mask(np.ones(kernel.mask.shape, bool))
