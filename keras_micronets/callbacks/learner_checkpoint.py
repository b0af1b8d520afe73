import keras

from keras_micronets.learners import LearnerPool


class LearnerCheckpoint(keras.callbacks.Callback):
    """Put the model into a pool of learners every few epochs.

    List it after the callbacks that prune and quantise. A run that resumes, with
    Keras's `BackupAndRestore`, carries on with the learners it had: none is added
    twice.

    Args:
        pool: A `LearnerPool`.
        every: Integer, epochs between learners. Defaults to `1`.
        start: Float in [0, 1), the progress before which none is taken. Defaults
            to `0.0`.
        run: String that names the run within the pool; name it where a run that
            was killed in its first epoch shall find itself again. `None` for the
            next free number, or, where `fit` resumes at a later epoch, the pool's
            last run. Defaults to `None`.
        seed: Integer that the run was seeded with, for the record. Defaults to
            `None`.
        from_logits: Boolean, whether the model puts out logits. `None` to settle
            it as `LearnerPool.add` does. Defaults to `None`.
        verbose: Integer, 1 to print a line a learner. Defaults to `0`.

    Raises:
        ValueError: When `fit` begins, if `every` or `start` is out of its range.

    Example:

    ```python
    pool = keras_micronets.LearnerPool("pool")
    checkpoint = keras_micronets.callbacks.LearnerCheckpoint(pool, every=5)
    model.fit(x, y, epochs=60, callbacks=[checkpoint])
    len(pool)  # 12
    ```
    """

    def __init__(
        self,
        pool: LearnerPool,
        every: int = 1,
        *,
        start: float = 0.0,
        run: str | None = None,
        seed: int | None = None,
        from_logits: bool | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.pool = pool
        self.every = every
        self.start = start
        self.run = run
        self.seed = seed
        self.from_logits = from_logits
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        if self.every < 1:
            raise ValueError(
                f"Expected `every` to be 1 or more epochs. Received: {self.every}."
            )
        if not 0.0 <= self.start < 1.0:
            raise ValueError(
                "Expected `start` in [0, 1), a fraction of the run. "
                f"Received: start={self.start}."
            )
        self._run = self.run

    def on_epoch_begin(self, epoch, logs=None):
        if self._run is None:
            self._run = self.pool.last_run() if epoch else self.pool.next_run()

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        if done % self.every or done / self.params["epochs"] < self.start:
            return
        name = f"{self._run}-epoch-{done:04d}"
        if name in self.pool:
            return
        learner = self.pool.add(
            self.model,
            name=name,
            run=self._run,
            epoch=done,
            seed=self.seed,
            metrics={key: float(value) for key, value in (logs or {}).items()},
            from_logits=self.from_logits,
        )
        if self.verbose:
            print(f"\nLearner {learner.name}: sparsity {learner.sparsity:.3f}")
