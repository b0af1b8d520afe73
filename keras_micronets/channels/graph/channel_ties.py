import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Ties:
    """Numbers of channels, of which some are tied: kept together or cut together.

    Channels that are needed as they are can be frozen, and with them those that they
    are tied to.

    Example:

    ```python
    ties = Ties()
    a, b = ties.new(2), ties.new(2)
    ties.tie(a, b)
    ties.components()  # array([0, 1, 0, 1])
    ```
    """

    def __init__(self):
        self.n = 0
        self._pairs, self._frozen = [np.zeros((2, 0), int)], []

    def new(self, n: int) -> np.ndarray:
        """Return the numbers of `n` channels that nothing is tied to yet."""
        self.n += n
        return np.arange(self.n - n, self.n)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Tie the channels of one array to those of another of its size, in order."""
        self._pairs.append(np.stack([np.ravel(first), np.ravel(second)]))

    def freeze(self, channels: np.ndarray, reason: str) -> None:
        """Let none of some channels be cut, for a reason that the user is told."""
        self._frozen.append((np.ravel(channels), reason))

    def components(self) -> np.ndarray:
        """Return for each channel the number of the set of those it is tied to."""
        first, second = np.concatenate(self._pairs, axis=1)
        graph = coo_array((np.ones(len(first)), (first, second)), (self.n, self.n))
        return connected_components(graph, directed=False)[1]

    def reasons(self) -> dict[int, str]:
        """Return why sets of tied channels are frozen, by their numbers."""
        found, of = {}, self.components()
        for channels, reason in self._frozen:
            for component in np.unique(of[channels]):
                found.setdefault(int(component), reason)
        return found
