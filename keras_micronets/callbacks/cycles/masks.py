"""Mask samplers: functions that set the masks of a cycle.

A mask sampler is any function `mask(model, index, seed)` that sets the masks of a
prepared model; `index` counts the cycles from 0. The masks may depend only on these
arguments, so that a run that was killed samples the same masks when it resumes.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np

from keras_micronets import layers
from keras_micronets._serialization import Configurable, serializable
from keras_micronets.callbacks.mask_updates import drop_and_regrow, prune
from keras_micronets.channels.importance import GroupNorm
from keras_micronets.channels.masking import mask_channels, prepare_normalizations
from keras_micronets.channels.planner import Planner
from keras_micronets.layers.scope import ScopeFunction, select_kernels
from keras_micronets.schedules import check_sparsity
from keras_micronets.sparsity import Pattern, random_halves

__all__ = ["Channels", "Magnitude", "RandomHalves", "Regrow"]


# Other classes are registered as `Channels` and `Magnitude`.
@serializable(name="masks.Magnitude")
@dataclass(frozen=True, repr=False)
class Magnitude(Configurable):
    """Keep the largest weights, to a given or random sparsity.

    Weights that the masks of the model removed before may return, with the value zero.

    Args:
        sparsity: Float in [0, 1), or a pair of floats: each cycle samples its sparsity
            uniformly between them, rounded to two decimals.
        noise: Float, 0 or more, the standard deviation of the logarithm of random
            factors on the magnitudes, so that learners of one parent differ. Defaults
            to `0.0`.
        allocation, pattern, scope: As for `WeightPruning`.

    Raises:
        ValueError: If a sparsity lies outside [0, 1), or the noise is negative.
    """

    sparsity: float | tuple[float, float]
    noise: float = 0.0
    allocation: str = "uniform"
    pattern: Pattern | None = None
    scope: ScopeFunction | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sparsity, list):  # as JSON has it
            object.__setattr__(self, "sparsity", tuple(self.sparsity))
        for value in np.atleast_1d(self.sparsity):
            check_sparsity(float(value), "sparsity")
        _check_noise(self.noise)

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        """Set the masks of a cycle."""
        rng = np.random.default_rng((seed, index))
        low, high = np.broadcast_to(self.sparsity, 2)
        sparsity = round(float(rng.uniform(low, high)), 2) if low < high else float(low)
        for kernel in select_kernels(model, self.scope):
            kernel.set_mask(np.ones(kernel.mask.shape, bool))
        prune(
            model,
            sparsity,
            pattern=self.pattern,
            scope=self.scope,
            importance=_Noisy(self.noise, rng) if self.noise else "magnitude",
            allocation=self.allocation,
        )


@dataclass(frozen=True)
class _Noisy:
    """Magnitude times a random factor."""

    noise: float
    rng: np.random.Generator
    needs_gradients = False

    def __call__(self, weights, gradients=None):
        exponents = self.rng.standard_normal(weights.shape, "float32")
        return np.abs(weights) * np.exp(self.noise * exponents)


@serializable(name="masks.Channels")
@dataclass(frozen=True, repr=False)
class Channels(Configurable):
    """Keep whole channels, to a budget, so that a learner needs less time.

    Masks are set on all kernels that read channels. In a `Cycle` with `compact=True`
    the learner is saved without the channels that no kernel reads, so that learners
    differ in shape.

    Args:
        params, macs, round_to, min_channels: As for `channels.plan`.
        noise: As for `Magnitude`, on the importance. Defaults to `0.5`.
        importance: One of `keras_micronets.channels.importance` that needs no
            gradients. `None` for `GroupNorm()`. Defaults to `None`.

    Raises:
        ValueError: If the noise is negative; when a cycle begins, as `channels.plan`.
    """

    params: float | None = None
    macs: float | None = None
    noise: float = 0.5
    importance: Any = None
    round_to: int = 8
    min_channels: int = 8
    scope: ClassVar[None] = None  # all layers that are trained

    def __post_init__(self) -> None:
        _check_noise(self.noise)

    def prepare(self, model: keras.Model) -> None:
        """Give masks to normalisations over channels; `LearnerCycles` calls this."""
        prepare_normalizations(model)

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        """Set the masks of a cycle."""
        planner = Planner(
            model,
            round_to=self.round_to,
            min_channels=self.min_channels,
            scope=layers.Scope(),
            masked=True,
        )
        rng = np.random.default_rng((seed, index))
        importance = self.importance or GroupNorm()
        scores = [
            score * np.exp(self.noise * rng.standard_normal(score.shape))
            for score in importance(model, planner.graph, None)
        ]
        plan = planner.plan(scores, params=self.params, macs=self.macs)
        mask_channels(model, planner.graph, plan)


@serializable(name="masks.RandomHalves")
@dataclass(frozen=True, repr=False)
class RandomHalves(Configurable):
    """Keep a random half of each kernel, and in the next cycle the other half.

    Args:
        pattern: As for `WeightPruning`.
        scope: As for `WeightPruning`. Defaults to `Scope(last=False)`: the last layer
            always stays dense.

    Reference: Whitaker and Whitley 2022, "Prune and Tune Ensembles: Low-Cost
    Ensemble Learning With Sparse Independent Subnetworks".
    """

    pattern: Pattern | None = None
    scope: ScopeFunction = field(default_factory=lambda: layers.Scope(last=False))

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        """Set the masks of a cycle."""
        rng = np.random.default_rng((seed, index // 2))
        for kernel in self.scope(model):
            layout = kernel.layout
            halves = random_halves(layout.shape, rng, pattern=self.pattern)
            kernel.set_mask(layout.restore(halves[index % 2]))


@serializable(name="masks.Regrow")
@dataclass(frozen=True, repr=False)
class Regrow(Configurable):
    """Drop the smallest weights and grow others, so that learners differ.

    Args:
        fraction: Float in [0, 1], the share of the kept weights that is dropped.
            Defaults to `0.8`.
        on_first_cycle: Boolean, whether connections move in the first cycle too;
            otherwise it keeps the masks of the model. Defaults to `False`.
        data: Data to compute gradients on, as for `WeightPruning`; one batch is used.
            `None` to grow at random. Defaults to `None`.
        scope: As for `WeightPruning`.

    Reference: Liu et al. 2022, "Deep Ensembling with No Overhead for either Training
    or Testing: The All-Round Blessings of Dynamic Sparsity".
    """

    fraction: float = 0.8
    on_first_cycle: bool = False
    data: Any = None
    scope: ScopeFunction | None = None

    def __call__(self, model: keras.Model, index: int, seed: int) -> None:
        """Set the masks of a cycle."""
        if index == 0 and not self.on_first_cycle:
            return
        gradients = None
        if self.data is not None:
            batches = layers.batches(self.data, seed=seed, start=index)
            gradients = layers.kernel_gradients(model, *next(batches))
        drop_and_regrow(
            model,
            self.fraction,
            scope=self.scope,
            gradients=gradients,
            seed=(seed, index),
        )


def _check_noise(noise):
    if noise < 0:
        raise ValueError(f"Expected `noise` to be 0 or more. Received: noise={noise}.")
