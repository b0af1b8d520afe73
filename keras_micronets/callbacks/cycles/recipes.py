from keras_micronets import learning_rates
from keras_micronets.callbacks.cycles import masks as draws
from keras_micronets.callbacks.cycles.cycle import Cycle
from keras_micronets.callbacks.dynamic_sparse_training import DynamicSparseTraining
from keras_micronets.learners import LearnerPool


class PublishedCycles:
    """The published ways to many learners from one run, as constructors."""

    @classmethod
    def prune2edge(
        cls,
        pool: LearnerPool,
        n_learners: int = 20,
        *,
        sparsity: tuple[float, float] = (0.2, 0.55),
        learning_rate: float = 1e-5,
        chain: bool = False,
        **options,
    ) -> "PublishedCycles":
        """Return the cycles of Prune2Edge: the parent pruned anew for each learner.

        Each learner is the parent with its smallest weights removed, to a sparsity
        drawn at random, tuned at a small learning rate; 2 epochs a learner are the
        published number. Learners of equal sparsity have the same mask. Batch size and
        loss, which the papers also draw, are fixed within one `fit`:
        `keras_micronets.train_prune2edge` runs several.

        Args:
            pool: A `LearnerPool`.
            n_learners: Integer. Defaults to `20`; the authors draw 500.
            sparsity: Pair of floats, the range of the sparsity. Defaults to
                `(0.2, 0.55)`.
            learning_rate: Positive float. Defaults to `1e-5`, which is the authors'
                for Adam; SGD wants more.
            chain: Boolean, whether each learner goes on from the one before, as the
                authors' code in fact does: it wraps one set of layers again and
                again. Defaults to `False`, independent clones, as the paper says.
            **options: Further arguments of `LearnerCycles`.

        Reference: Alhalabi, Gaber and Basurra 2020, "Prune2Edge: A Multi-Phase
        Pruning Pipelines to Deep Ensemble Learning in IIoT"; ranges as in the
        authors' code for FedNets.
        """
        cycle = Cycle(
            start="previous" if chain else "parent",
            draw=draws.Magnitude(sparsity),
            learning_rate=learning_rates.Steady(learning_rate),
        )
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def snapshot(
        cls,
        pool: LearnerPool,
        n_learners: int = 5,
        *,
        learning_rate: float = 0.2,
        **options,
    ) -> "PublishedCycles":
        """Return the cycles of snapshot ensembles: restarts of a cosine.

        Args:
            pool: A `LearnerPool`.
            n_learners: Integer. Defaults to `5`.
            learning_rate: Positive float, at each restart; the default is for SGD.
                Defaults to `0.2`.
            **options: Further arguments of `LearnerCycles`.

        Reference: Huang et al. 2017, "Snapshot Ensembles: Train 1, get M for free".
        """
        cycle = Cycle(learning_rate=learning_rates.Cosine(learning_rate))
        return cls(pool, n_learners, cycle, **options)

    @classmethod
    def free_tickets(
        cls,
        pool: LearnerPool,
        n_learners: int = 3,
        *,
        gradient_data,
        sparsity: float = 0.8,
        learning_rate: float = 0.1,
        frequency: int = 1000,
        regrow: float = 0.8,
        seed: int = 0,
        **options,
    ) -> "PublishedCycles":
        """Return the cycles of FreeTickets (EDST): dynamic sparse training throughout.

        A third of the run explores with RigL (give `explore=` for another share); each
        cycle then refines at a tenth and, in its second half, a hundredth of the
        learning rate; between learners most weights are dropped and others grown.

        Args:
            pool: A `LearnerPool`.
            n_learners: Integer. Defaults to `3`.
            gradient_data: Training data that growth measures gradients on, as
                `DynamicSparseTraining` takes it.
            sparsity: Float in [0, 1), of the whole model, layers as Erdos-Renyi-
                Kernel has them. Defaults to `0.8`.
            learning_rate: Positive float, while exploring; the default is for SGD.
                Defaults to `0.1`.
            frequency: Integer, batches between the updates of the mask. Defaults to
                `1000`.
            regrow: Float in [0, 1], the share moved between learners. Defaults to
                `0.8`.
            seed: Integer. Defaults to `0`.
            **options: Further arguments of `LearnerCycles`.

        Reference: Liu et al. 2022, "Deep Ensembling with No Overhead for either
        Training or Testing: The All-Round Blessings of Dynamic Sparsity". The share
        moved falls along a cosine here; the authors' code keeps it at one half.
        """
        cycle = Cycle(
            draw=draws.Regrow(regrow, data=gradient_data),
            learning_rate=learning_rates.Steps(
                [learning_rate / 10, learning_rate / 100]
            ),
        )
        during = DynamicSparseTraining(
            sparsity,
            data=gradient_data,
            drop_fraction=0.5,
            frequency=frequency,
            end=1.0,
            seed=seed,
        )
        options = {
            "explore": 1 / 3,
            "explore_rate": learning_rates.Steady(learning_rate),
            **options,
        }
        return cls(pool, n_learners, cycle, during=during, seed=seed, **options)

    @classmethod
    def prune_and_tune(
        cls,
        pool: LearnerPool,
        n_learners: int = 6,
        *,
        learning_rate: float = 0.1,
        explore: float = 0.7,
        **options,
    ) -> "PublishedCycles":
        """Return the cycles of Prune and Tune: random halves of one parent.

        Learners come in pairs: a random half of the parent's weights, then the other
        half, each tuned with one cycle of the learning rate. The last layer is
        kept whole.

        Args:
            pool: A `LearnerPool`.
            n_learners: Integer. Defaults to `6`.
            learning_rate: Positive float, the peak; the default is for SGD. Defaults
                to `0.1`.
            explore: Float in [0, 1), the share of the run that trains the parent.
                Defaults to `0.7`.
            **options: Further arguments of `LearnerCycles`.

        Reference: Whitaker and Whitley 2022, "Prune and Tune Ensembles: Low-Cost
        Ensemble Learning With Sparse Independent Subnetworks".
        """
        cycle = Cycle(
            start="parent",
            draw=draws.RandomHalves(),
            learning_rate=learning_rates.OneCycle(learning_rate),
        )
        return cls(pool, n_learners, cycle, explore=explore, **options)
