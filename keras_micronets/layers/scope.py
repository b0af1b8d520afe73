"""Choice of the kernels that a callback prunes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import keras

from keras_micronets._serialization import serializable
from keras_micronets.layers.kernels import Kernel, kernels
from keras_micronets.layers.side_by_side import members_of

__all__ = ["Scope", "ScopeFunction", "kernels_by_member", "select_kernels"]

ScopeFunction = Callable[[keras.Model], list[Kernel]]


@serializable()
@dataclass(frozen=True, repr=False)
class Scope:
    """Choose kernels of a model by the layers they belong to.

    A matcher is the name of a layer (or of one of its kernels, such as
    `"separable/pointwise_kernel"`), a compiled regular expression to search in that
    name, a class of layers, a function from a layer to a Boolean, or a list of
    matchers of which at least one must match.

    Of a `SideBySide` model, kernels of each member are chosen.

    To prune some layers differently, pass `fit` one callback for each scope.

    Args:
        only: Matcher of the kernels to choose; `None` for all. Defaults to `None`.
        without: Matcher of the kernels to leave out; `None` for none. Defaults to
            `None`.
        first: Boolean, whether the first layer with kernels may be chosen, in the
            order of `model.summary()`. Defaults to `True`.
        last: Boolean, whether the last one may be chosen. Defaults to `True`.

    Example:

    ```python
    scope = kmn.layers.Scope(without=keras.layers.DepthwiseConv2D, first=False)
    schedule = kmn.schedules.PolynomialDecay(0.0, 0.8)
    kmn.callbacks.WeightPruning(schedule, scope=scope)
    ```
    """

    only: Any = None
    without: Any = None
    _: KW_ONLY
    first: bool = True
    last: bool = True

    def __call__(self, model: keras.Model) -> list[Kernel]:
        """Return the chosen kernels of a model.

        Args:
            model: A model that `layers.prepare` was called on.

        Raises:
            TypeError: If a matcher has another type.
            ValueError: If no kernel is chosen, or if no layer with kernels has a given
                name.
        """
        _check_names((self.only, self.without), kernels(model), model)
        return [x for member in members_of(model) for x in self._of_member(member)]

    def _of_member(self, model):
        every = kernels(model)
        chosen = [kernel for kernel in every if self._chooses(kernel, every)]
        if not chosen:
            names = list(dict.fromkeys(kernel.layer.name for kernel in every))
            raise ValueError(
                f"Expected a scope that chooses kernels of {model.name!r}, whose "
                f"layers with kernels are {_few(names)}. Received: {self}."
            )
        return chosen

    def _chooses(self, kernel, every):
        at_first = kernel.layer is every[0].layer
        at_last = kernel.layer is every[-1].layer
        return (
            (self.first or not at_first)
            and (self.last or not at_last)
            and (self.only is None or _matches(self.only, kernel))
            and not (self.without is not None and _matches(self.without, kernel))
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as Keras saves them; functions must be registered."""
        matchers = {"only": _to_config(self.only), "without": _to_config(self.without)}
        return {**matchers, "first": self.first, "last": self.last}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a scope from what `get_config` returned."""
        matchers = {name: _from_config(config[name]) for name in ("only", "without")}
        return cls(**{**config, **matchers})

    def __repr__(self):
        pairs = ", ".join(f"{name}={_text(x)}" for name, x in vars(self).items())
        return f"Scope({pairs})"


def _to_config(matcher):
    if _is_list(matcher):
        return list(map(_to_config, matcher))
    if isinstance(matcher, re.Pattern):
        return {"pattern": matcher.pattern, "flags": matcher.flags}
    if isinstance(matcher, type):
        return {"layer": keras.saving.get_registered_name(matcher)}
    return keras.saving.serialize_keras_object(matcher)


def _from_config(saved):
    if isinstance(saved, list):
        return list(map(_from_config, saved))
    if isinstance(saved, dict) and "pattern" in saved:
        return re.compile(**saved)
    if isinstance(saved, dict) and "layer" in saved:
        name = saved["layer"]
        registered = keras.saving.get_registered_object(name)
        return getattr(keras.layers, name) if registered is None else registered
    return keras.saving.deserialize_keras_object(saved)


def _text(matcher):
    if _is_list(matcher):
        return f"[{', '.join(map(_text, matcher))}]"
    name = getattr(matcher, "__name__", None)
    if name is None:
        return repr(matcher)
    if getattr(keras.layers, name, None) is matcher:
        return f"keras.layers.{name}"
    return keras.saving.get_registered_name(matcher).rpartition(">")[2]


def select_kernels(model: keras.Model, scope: ScopeFunction | None) -> list[Kernel]:
    """Return the kernels of a prepared model that a scope selects; `None` for all."""
    return kernels(model) if scope is None else scope(model)


def kernels_by_member(
    model: keras.Model, scope: ScopeFunction | None
) -> list[list[Kernel]]:
    """Return the kernels that a scope selects, as a list for each member.

    A model that is not a `SideBySide` model has one such list.
    """
    selected = select_kernels(model, scope)
    members = [set(kernels(member)) for member in members_of(model)]
    return [[x for x in selected if x in member] for member in members]


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


def _check_names(matchers, every, model):
    known = [name for kernel in every for name in (kernel.layer.name, kernel.path)]
    for matcher in matchers:
        for one in matcher if _is_list(matcher) else [matcher]:
            if isinstance(one, str) and one not in known:
                raise ValueError(
                    f"Expected the name of a layer with kernels of {model.name!r}: "
                    f"{_few(list(dict.fromkeys(known)))}. Received: {one!r}."
                )


def _few(names):
    return ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "none"
