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

    All take a `LearnerPool`, the number of learners, the (peak) learning rate and
    further arguments of `LearnerCycles` as `options`.
    """

    @classmethod
    def prune2edge(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 20,
        *,
        sparsity: tuple[float, float] = (0.2, 0.55),
        learning_rate: float = 1e-5,
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
            learning_rate: Positive float. Defaults to `1e-5`, the authors' value for
                Adam; SGD needs more.
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
            learning_rate=learning_rate,
        )
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def snapshot(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 5,
        *,
        learning_rate: float = 0.2,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of snapshot ensembles: restarts of a cosine.

        Args:
            pool, n_learners, options: As for `LearnerCycles`.
            learning_rate: Positive float, at each restart; the default is for SGD.
                Defaults to `0.2`.

        Reference: Huang et al. 2017, "Snapshot Ensembles: Train 1, get M for free".
        """
        cycle = Cycle(learning_rate=learning_rates.Cosine(learning_rate))
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def free_tickets(
        cls: Any,
        pool: "LearnerPool",
        n_learners: int = 3,
        *,
        data: Any,
        sparsity: float = 0.8,
        learning_rate: float = 0.1,
        frequency: int = 1000,
        regrow: float = 0.8,
        seed: int = 0,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of FreeTickets (EDST): dynamic sparse training throughout.

        The warm-up is a third of the run, with RigL (set `warmup` for another share).
        Each cycle then trains at a tenth and, in its second half, a hundredth of the
        learning rate. Between learners most weights are dropped and others grown.

        Args:
            pool, n_learners, seed, options: As for `LearnerCycles`.
            data, sparsity, frequency: As for `DynamicSparseTraining`. Updates are
                every 1000 batches by default.
            learning_rate: Positive float, of the warm-up; the default is for SGD.
                Defaults to `0.1`.
            regrow: Float in [0, 1], the share of weights moved between learners.
                Defaults to `0.8`.

        Reference: Liu et al. 2022, "Deep Ensembling with No Overhead for either
        Training or Testing: The All-Round Blessings of Dynamic Sparsity". The share
        that moves decreases along a cosine here; the authors' code keeps one half.
        """
        rates = [learning_rate / 10, learning_rate / 100]
        cycle = Cycle(
            mask=masks.Regrow(regrow, data=data),
            learning_rate=learning_rates.PiecewiseConstant(rates),
        )
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
        learning_rate: float = 0.1,
        warmup: float = 0.7,
        **options: Any,
    ) -> "LearnerCycles":
        """Return the cycles of Prune and Tune: random halves of one parent.

        Learners come in pairs: a random half of the weights of the parent, and the
        other half, each trained with one cycle of the learning rate. The last layer
        stays dense.

        Args:
            pool, n_learners, warmup, options: As for `LearnerCycles`.
            learning_rate: Positive float, the peak; the default is for SGD. Defaults
                to `0.1`.

        Reference: Whitaker and Whitley 2022, "Prune and Tune Ensembles: Low-Cost
        Ensemble Learning With Sparse Independent Subnetworks".
        """
        cycle = Cycle(
            initial="parent",
            mask=masks.RandomHalves(),
            learning_rate=learning_rates.OneCycle(learning_rate),
        )
        return cls(pool, n_learners, cycle, warmup=warmup, **options)
