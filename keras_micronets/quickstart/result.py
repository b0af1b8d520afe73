from dataclasses import asdict, dataclass

from keras_micronets.quickstart.score import Score


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart measured; it prints as a table.

    Attributes:
        problem: Name of the data.
        epochs: Epochs of the baseline, and of the one run that made the learners.
        seed: The seed.
        n_learners: Learners the run yielded.
        sparsities: Their sparsities.
        scores: A `Score` a row: baseline, members, ensemble before and after int8.
        zip_bytes: Bytes of the bundle's models as one zip.
        bundle: Directory of the bundle.
    """

    problem: str
    epochs: int
    seed: int
    n_learners: int
    sparsities: tuple[float, ...]
    scores: tuple[Score, ...]
    zip_bytes: int
    bundle: str

    def to_json(self) -> dict:
        """Return the result as JSON values."""
        return asdict(self)

    def __str__(self):
        head = (
            f"{'test data, scored once':<28}{'sparsity':>9}{'accuracy':>9}{'NLL':>8}"
            f"{'ECE':>8}{'bytes':>11}{'gzip':>9}{'ms':>8}"
        )
        share = self.zip_bytes / self.scores[0].n_bytes
        foot = (
            f"The bundle's models as one zip: {self.zip_bytes:,} bytes, {share:.0%} of "
            f"the float32 baseline's file. Bundle: {self.bundle}"
        )
        return "\n".join([head, *map(_row, self.scores), "", foot])


def _row(row):
    latency = "" if row.latency is None else f"{row.latency:.3f}"
    return (
        f"{row.name:<28}{row.sparsity:>9.1%}{row.accuracy:>9.2%}{row.nll:>8.3f}"
        f"{row.ece:>8.3f}{row.n_bytes:>11,}{row.gzip_bytes:>9,}{latency:>8}"
    )
