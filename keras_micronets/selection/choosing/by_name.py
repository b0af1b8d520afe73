"""All ways of choosing, by name."""

from keras_micronets.selection.choosing.auto import auto
from keras_micronets.selection.choosing.methods import SINGLE, Method, pick

METHODS: dict[str, Method] = {**SINGLE, "auto": auto}


def as_method(method: str | Method) -> Method:
    """Return a way of choosing.

    Args:
        method: A name out of `METHODS`, or a function with the signature
            `method(probabilities, y, n_members, *, random_state) -> Selection`.

    Raises:
        ValueError: If the name is not known.
        TypeError: If it is neither.

    Example:

    ```python
    as_method("top_k")(probabilities, y, 4).indices
    ```
    """
    return pick(method, METHODS)
