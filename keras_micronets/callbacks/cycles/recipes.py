from typing import TYPE_CHECKING, Any

from keras_micronets import learning_rates
from keras_micronets.callbacks.cycles import masks
from keras_micronets.callbacks.cycles.cycle import Cycle
from keras_micronets.callbacks.dynamic_sparse_training import DynamicSparseTraining

if TYPE_CHECKING:
    from keras_micronets.callbacks.cycles.learner_cycles import LearnerCycles
    from keras_micronets.learners import LearnerPool

__all__ = ["PublishedCycles"]


class PublishedCycles:
    """Constructors of `LearnerCycles` for published methods.

    All take a `LearnerPool`, the number of learners, the learning rate and further
    arguments of `LearnerCycles` as `options`. The learning rate is a peak: by default
    that with which the optimizer was compiled, so that every optimizer can be used. The
    published rates are constants of `keras_micronets.learning_rates`. A function or a
    Keras schedule, as in `Cycle`, replaces the whole schedule of the recipe.
    """

    @classmethod
    def prune2edge(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 20,
        *,
        sparsity: tuple[float, float] = (0.2, 0.55),
        learning_rate: Any = None,
        sequential: bool = False,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of Prune2Edge: pruned copies of one parent.

        Each learner is the parent without its smallest weights, to a random sparsity,
        trained at a small learning rate. Learners of equal sparsity have the same
        mask. The authors train 500 learners for 2 epochs each, and also sample the
        batch size and the loss, which are fixed within one `fit`:
        `keras_micronets.train_prune2edge` runs several.

        Args:
            pool, n_learners, options: As for `LearnerCycles`.
            sparsity: Pair of floats, the range of the sparsity. Defaults to
                `(0.2, 0.55)`.
            learning_rate: As in `Cycle`. `None` for a tenth of the compiled one. The
                authors' `PRUNE2EDGE_ADAM` is a hundredth of Adam's default, with which
                small networks do not recover in a few epochs. Defaults to `None`.
            sequential: Boolean, whether each learner starts from the previous one, as
                in the authors' code, which wraps the same layers repeatedly. Defaults
                to `False`: independent copies of the parent, as in the paper.

        Reference: Alhalabi, Gaber and Basurra 2020, "Prune2Edge: A Multi-Phase
        Pruning Pipelines to Deep Ensemble Learning in IIoT"; ranges as in the
        authors' code for FedNets.
        """
        cycle = Cycle(
            initial="previous" if sequential else "parent",
            mask=masks.Magnitude(sparsity),
            learning_rate=_relative(0.1) if learning_rate is None else learning_rate,
        )
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def snapshot(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 5,
        *,
        learning_rate: Any = None,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of snapshot ensembles: restarts of a cosine.

        Args:
            pool, n_learners, options: As for `LearnerCycles`.
            learning_rate: Positive float, the rate at each restart (`SNAPSHOT_SGD`), or
                a schedule. `None` for the compiled one. Defaults to `None`.

        Reference: Huang et al. 2017, "Snapshot Ensembles: Train 1, get M for free".
        """
        cycle = Cycle(learning_rate=_shaped(learning_rates.Cosine, learning_rate))
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def free_tickets(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 3,
        *,
        data: Any,
        sparsity: float = 0.8,
        learning_rate: Any = None,
        frequency: int = 1000,
        regrow: float = 0.8,
        seed: int = 0,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of FreeTickets (EDST): dynamic sparse training throughout.

        The warm-up is a third of the run, with RigL (set `warmup` for another share).
        Between learners most weights are dropped and others grown. Each cycle lowers
        the learning rate to a tenth in its second half.

        By default, warm-up and cycles begin at the compiled rate. The authors' cycles
        begin at a tenth of the warm-up's rate, which is high: at a tenth of Adam's,
        later learners do not recover in short runs from the weights that they lost.

        Args:
            pool, n_learners, seed, options: As for `LearnerCycles`.
            data, sparsity, frequency: As for `DynamicSparseTraining`. Updates are
                every 1000 batches by default.
            learning_rate: Positive float, the rate of the warm-up, a tenth of which
                the cycles begin at (`FREE_TICKETS_SGD`); or a schedule of the warm-up.
                `None` for the compiled rate. Defaults to `None`.
            regrow: Float in [0, 1], the share of weights moved between learners.
                Defaults to `0.8`.

        Reference: Liu et al. 2022, "Deep Ensembling with No Overhead for either
        Training or Testing: The All-Round Blessings of Dynamic Sparsity". The share
        that moves decreases along a cosine here; the authors' code keeps one half.
        """
        if learning_rate is None or callable(learning_rate):
            rates = _relative(1.0, 0.1)
        else:
            rates = [learning_rate / 10, learning_rate / 100]
            rates = learning_rates.PiecewiseConstant(rates)
        cycle = Cycle(mask=masks.Regrow(regrow, data=data), learning_rate=rates)
        training = DynamicSparseTraining(
            sparsity,
            drop_fraction=0.5,
            data=data,
            frequency=frequency,
            end=1.0,
            seed=seed,
        )
        options = {"warmup": 1 / 3, "warmup_learning_rate": learning_rate, **options}
        return cls(pool, n_learners, cycle, callbacks=[training], seed=seed, **options)

    @classmethod
    def prune_and_tune(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 6,
        *,
        learning_rate: Any = None,
        warmup: float = 0.5,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of Prune and Tune: random halves of one parent.

        Learners come in pairs: a random half of the weights of the parent, and the
        other half, each trained with one cycle of the learning rate. The last layer
        stays dense.

        Args:
            pool, n_learners, options: As for `LearnerCycles`.
            warmup: As for `LearnerCycles`. The authors' 0.7 leaves learners of short
                runs too few epochs to recover. Defaults to `0.5`.
            learning_rate: Positive float, the peak (`PRUNE_AND_TUNE_SGD`), or a
                schedule. `None` for the compiled one. Defaults to `None`.

        Reference: Whitaker and Whitley 2022, "Prune and Tune Ensembles: Low-Cost
        Ensemble Learning With Sparse Independent Subnetworks".
        """
        cycle = Cycle(
            initial="parent",
            mask=masks.RandomHalves(),
            learning_rate=_shaped(learning_rates.OneCycle, learning_rate),
        )
        return cls(pool, n_learners, cycle, warmup=warmup, **options)


def _shaped(shape, rate):
    """Return the schedule of a recipe with a peak; or the one that a user gave."""
    return rate if callable(rate) else shape(rate)


def _relative(*shares):
    return learning_rates.PiecewiseConstant(shares, relative=True)
