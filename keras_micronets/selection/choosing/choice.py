"""`Choice`: what was tried, and what it is worth on samples not seen."""

from dataclasses import dataclass

import numpy as np

_MOST_ROWS = 20


@dataclass(frozen=True, eq=False)
class Choice:
    """How one of several methods was chosen; it prints as a table.

    Args:
        methods: Tuple of strings, the names that were tried.
        n_members: Tuple of integers, how many members each was to keep.
        losses: Float array of shape `(tried, folds)`: held-out losses, NaN where a
            method had no answer.
        chosen: Integer, which one it was.
        scoring: `"loss"` or `"error"`.
        n_samples: Integer. How many samples the choice was made on.
        nested_loss: Float, the held-out loss of the whole procedure, choice included;
            `None` if that was not asked for.
    """

    methods: tuple[str, ...]
    n_members: tuple[int, ...]
    losses: np.ndarray
    chosen: int
    scoring: str
    n_samples: int
    nested_loss: float | None = None

    @property
    def mean_losses(self) -> np.ndarray:
        """Float array of shape `(tried,)`."""
        return self.losses.mean(axis=1)

    @property
    def method(self) -> str:
        """The name of the chosen method."""
        return self.methods[self.chosen]

    @property
    def optimism(self) -> float | None:
        """How much better the chosen one looked than the procedure is.

        The lowest of many losses is low by chance, too. In nested resampling the
        choice is made anew without the samples that it is scored on.
        """
        if self.nested_loss is None:
            return None
        return self.nested_loss - float(self.mean_losses[self.chosen])

    def __str__(self):
        means = self.mean_losses
        width = max(map(len, self.methods))
        lines = [f"{'method':<{width}}  members  held-out {self.scoring}"]
        for i in np.argsort(means, kind="stable")[:_MOST_ROWS]:
            value = "no answer" if np.isnan(means[i]) else f"{means[i]:.4f}"
            mark = "  chosen" if i == self.chosen else ""
            lines.append(
                f"{self.methods[i]:<{width}}  {self.n_members[i]:>7}  {value}{mark}"
            )
        if len(means) > _MOST_ROWS:
            lines.append(f"and {len(means) - _MOST_ROWS} others")
        return "\n".join([*lines, self._about()])

    def _about(self):
        folds = self.losses.shape[1]
        text = f"{folds} folds of {self.n_samples} samples."
        if self.nested_loss is None:
            return text
        return (
            f"{text}\nWith the choice made anew in each of the outer folds: "
            f"{self.nested_loss:.4f}, so the choice looked "
            f"{'better' if self.optimism >= 0 else 'worse'} than it is by "
            f"{abs(self.optimism):.4f}."
        )
