import numpy as np

from keras_micronets.sparsity.masks import keep_largest


def drop_and_grow(
    mask: np.ndarray, weights: np.ndarray, *, growth_scores: np.ndarray, n_moved: int
) -> np.ndarray:
    """Move connections: drop the smallest weights, grow as many elsewhere.

    What is dropped does not grow back at once: only what was removed before can
    grow. The number that is kept stays as it is.

    Args:
        mask: Boolean array, `True` where a weight is kept now.
        weights: Float array of the same shape.
        growth_scores: Float array of the same shape, read where `mask` removes:
            the highest grow, `nan` last.
        n_moved: Integer, how many to drop and to grow; fewer where fewer are
            kept or removed.

    Returns:
        Boolean array, the new mask.

    Example:

    ```python
    mask = np.array([True, True, False, False])
    drop_and_grow(
        mask,
        np.array([0.1, 2.0, 0.0, 0.0]),
        growth_scores=np.array([0.0, 0.0, 0.3, 0.4]),
        n_moved=1,
    )  # [False, True, False, True]
    ```

    Reference: Mocanu et al. 2018, "Scalable training of artificial neural networks
    with adaptive sparse connectivity inspired by network science".
    """
    kept, removed = np.flatnonzero(mask), np.flatnonzero(~mask)
    n_moved = max(0, min(n_moved, kept.size, removed.size))
    scores = growth_scores.ravel()[removed]
    scores = np.where(np.isnan(scores), -np.inf, scores)
    stays = keep_largest(np.abs(weights.ravel()[kept]), n_moved)
    grows = keep_largest(scores, removed.size - n_moved)
    moved = np.zeros(mask.size, bool)
    moved[kept[stays]] = True
    moved[removed[grows]] = True
    return moved.reshape(mask.shape)
