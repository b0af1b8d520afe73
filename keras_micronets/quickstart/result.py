"""The table of the quickstart, and which of its rows to use."""

from dataclasses import asdict, dataclass

import numpy as np

from keras_micronets.selection.metrics import standard_error

__all__ = ["QuickstartResult", "Score", "recommend"]


@dataclass(frozen=True)
class Score:
    """A row of the result: a model's cost, files, and metrics on the test data.

    Attributes:
        name: Name of the model.
        role: `"control"`; `"result"` of the pipeline; or `"learner"`, which is never
            recommended: it is the best of several on the data that decides.
        cost: Multiply-accumulates of its training, those of its teachers included,
            relative to the baseline's.
        sparsity: Share of removed weights.
        accuracy: Share of correct predictions.
        nll: Negative log-likelihood, in nats.
        calibrated_nll: The same after temperature scaling, each half of the test data
            with the temperature of the other.
        n_bytes: Size of its `.tflite` files.
        gzip_bytes: Their size after gzip.
        n_networks: Number of networks.
        held_out_loss: Negative log-likelihood on the selection data, after temperature
            scaling. Its labels may be wrong.
        latency: Milliseconds for one sample on this host.
    """

    name: str
    role: str
    cost: float
    sparsity: float
    accuracy: float
    nll: float
    calibrated_nll: float
    n_bytes: int
    gzip_bytes: int
    n_networks: int
    held_out_loss: float
    latency: float = 0.0


def recommend(losses: dict[str, np.ndarray], controls: list[str]) -> tuple[str, str]:
    """Choose a model on the selection data, and say why.

    It is the one with the lowest loss that is not a control, unless the loss of the
    best control is lower by more than one standard error of the difference.

    Args:
        losses: Losses on the selection data, `(samples,)`, by the model's name.
        controls: The names of the controls.

    Returns:
        Tuple of the name and the reason.
    """

    def lowest(names):
        return min(names, key=lambda name: losses[name].mean())

    result, control = lowest(losses.keys() - {*controls}), lowest(controls)
    excess = losses[result] - losses[control]
    error = standard_error(excess)
    about = f"by {excess.mean():+.3f} ± {error:.3f} from that of {control}"
    if excess.mean() > error:
        return (
            control,
            f"on the selection data {result} is worse by more than its error",
        )
    return result, f"its loss on the selection data differs {about}"


@dataclass(frozen=True)
class QuickstartResult:
    """The result of the quickstart; prints as a table.

    Attributes:
        problem: Name of the data.
        epochs: Epochs of the baseline, and of each learner.
        seed: Seed of the run.
        n_learners: Number of learners in the pool.
        scores: A `Score` for each control, then for the best single learner, the
            distilled network and the ensemble.
        recommended: Name of the row to use, chosen on the selection data.
        reason: Why.
        best_control: Name of the control of the highest accuracy on the test data.
        gain: Accuracy of the recommended row less that of the best control.
        gain_error: Its standard error over the test images.
        bundle: Path of the bundle.
    """

    problem: str
    epochs: int
    seed: int
    n_learners: int
    scores: tuple[Score, ...]
    recommended: str
    reason: str
    best_control: str
    gain: float
    gain_error: float
    bundle: str

    def to_json(self) -> dict:
        """Return the result as JSON values."""
        return asdict(self)

    def __str__(self):
        head = (
            f"{'test data, scored once':<29}{'cost':>5}{'sparse':>8}{'accuracy':>10}"
            f"{'NLL':>7}{'scaled':>8}{'bytes':>10}{'gzip':>9}{'ms':>8}"
        )
        foot = (
            "cost: training MACs, relative to the baseline's; scaled: NLL after "
            "temperature scaling",
            f"Use: {self.recommended}; {self.reason}.",
            f"Its gain over the best control ({self.best_control}): "
            f"{self.gain:+.1%} (standard error {self.gain_error:.1%})",
            f"Bundle: {self.bundle}",
        )
        return "\n".join([head, *map(_line, self.scores), "", *foot])


def _line(row):
    return (
        f"{row.name:<29}{row.cost:>5.1f}{row.sparsity:>8.0%}{row.accuracy:>10.2%}"
        f"{row.nll:>7.3f}{row.calibrated_nll:>8.3f}{row.n_bytes:>10,}"
        f"{row.gzip_bytes:>9,}{row.latency:>8.3f}"
    )
