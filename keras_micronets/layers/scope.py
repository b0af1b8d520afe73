import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import keras

from keras_micronets.layers.kernels import Kernel, kernels


@dataclass(frozen=True)
class Scope:
    """Choose kernels of a model by the layers they belong to.

    A matcher is the name of a layer (or of one of its kernels, as
    `"separable/pointwise_kernel"`), a compiled regular expression that is searched in
    it, a class of layers, a function from a layer to a boolean, or a list of
    matchers of which one must hold.

    To treat layers differently, give `fit` a `WeightPruning` for each scope.

    Args:
        only: Matcher of what is chosen; `None` for everything. Defaults to `None`.
        without: Matcher of what is left out; `None` for nothing. Defaults to `None`.
        first: Boolean, whether the model's first layer with kernels may be chosen.
            Defaults to `True`.
        last: Boolean, whether its last one may; order is that of
            `model.summary()`. Defaults to `True`.

    Example:

    ```python
    scope = Scope(without=[keras.layers.DepthwiseConv2D, "head"], first=False)
    WeightPruning(schedule, scope=scope)
    ```
    """

    only: Any = None
    without: Any = None
    _: KW_ONLY
    first: bool = True
    last: bool = True

    def __call__(self, model: keras.Model) -> list[Kernel]:
        """Return the handles of the kernels that are chosen.

        Args:
            model: A model that `layers.prepare` was called on.

        Raises:
            TypeError: If a matcher is none of these.
            ValueError: If nothing is chosen, or a name is no layer's with kernels.
        """
        found = kernels(model)
        _check_names((self.only, self.without), found, model)
        chosen = [kernel for kernel in found if self._chooses(kernel, found)]
        if not chosen:
            names = list(dict.fromkeys(kernel.layer.name for kernel in found))
            raise ValueError(
                f"Expected a scope that chooses kernels of {model.name!r}, whose "
                f"layers with kernels are {_few(names)}. Received: {self}."
            )
        return chosen

    def _chooses(self, kernel, found):
        at_first = kernel.layer is found[0].layer
        at_last = kernel.layer is found[-1].layer
        return (
            (self.first or not at_first)
            and (self.last or not at_last)
            and (self.only is None or _matches(self.only, kernel))
            and not (self.without is not None and _matches(self.without, kernel))
        )


def _matches(matcher, kernel):
    if _is_list(matcher):
        return any(_matches(one, kernel) for one in matcher)
    if isinstance(matcher, str):
        return matcher in (kernel.layer.name, kernel.path)
    if isinstance(matcher, re.Pattern):
        return matcher.search(kernel.path) is not None
    if isinstance(matcher, type):
        return isinstance(kernel.layer, matcher)
    if callable(matcher):
        return bool(matcher(kernel.layer))
    raise TypeError(
        "Expected to match layers by a name, a compiled regular expression, a class, "
        f"a function or a list of these. Received: {matcher!r}."
    )


def _is_list(matcher):
    return isinstance(matcher, Sequence | set) and not isinstance(matcher, str)


def _check_names(matchers, found, model):
    known = [name for kernel in found for name in (kernel.layer.name, kernel.path)]
    for matcher in matchers:
        for one in matcher if _is_list(matcher) else [matcher]:
            if isinstance(one, str) and one not in known:
                raise ValueError(
                    f"Expected the name of a layer with kernels of {model.name!r}: "
                    f"{_few(list(dict.fromkeys(known)))}. Received: {one!r}."
                )


def _few(names):
    return ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "none"
