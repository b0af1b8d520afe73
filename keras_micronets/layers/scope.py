"""Choice of the kernels that a callback prunes."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import prod
from typing import Any, Self

import keras

from keras_micronets._serialization import serializable
from keras_micronets.layers.kernels import Kernel, kernels
from keras_micronets.layers.layout import DEPTHWISE
from keras_micronets.layers.side_by_side import members_of

__all__ = [
    "Scope",
    "ScopeFunction",
    "kernels_by_member",
    "select_kernels",
    "warn_of_frozen",
]

_SMALL_FAN_IN = 16
_LARGE_SHARE = 0.25
ScopeFunction = Callable[[keras.Model], list[Kernel]]


@serializable()
@dataclass(frozen=True, repr=False)
class Scope:
    """Choose kernels of a model by the layers they belong to.

    `Scope()` is the default of all callbacks. It leaves out the kernels that hold a
    small part of the weights and whose pruning costs the most accuracy: those of the
    first and of the last layer, and those of which an output sums over few weights,
    such as depthwise ones. Each of these three stays in where it holds a quarter of
    the weights or more, so that nets of two layers are pruned too.
    `Scope(first=True, last=True, small=True)` chooses all kernels that are trained.

    A matcher is the name of a layer (or of one of its kernels, such as
    `"separable/pointwise_kernel"`), a compiled regular expression to search in that
    name, a class of layers, a function from a layer to a Boolean, or a list of
    matchers of which at least one must match. Names and classes of a wrapper or an
    attention layer match all kernels inside, which count as one layer.

    To prune some layers differently, pass `fit` one callback for each scope.

    Args:
        only: Matcher of the kernels to choose; `None` for all. Defaults to `None`.
        without: Matcher of the kernels to leave out; `None` for none. Defaults to
            `None`.
        first: Boolean, whether the first layer with kernels may be chosen, in the
            order of `model.summary()`. `None` for yes if it holds a quarter of the
            weights or `only` matches it. Defaults to `None`.
        last: Boolean, likewise for the last layer with kernels. Defaults to `None`.
        small: Boolean, likewise for depthwise kernels and all others with fewer than
            16 weights for each output; `None` counts their weights together.
            Defaults to `None`.
        frozen: Boolean, whether kernels that are not trained (`trainable=False`) may
            be chosen; they cannot recover from pruning. Defaults to `False`.

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
    first: bool | None = None
    last: bool | None = None
    small: bool | None = None
    frozen: bool = False

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
        trained = set(every if self.frozen else _trained(model, every))
        allowed = trained.difference(self._excluded(every, trained))
        chosen = [kernel for kernel in self._matched(every) if kernel in allowed]
        if not chosen:
            names = list(dict.fromkeys(kernel.layer.name for kernel in every))
            frozen = _few(self.frozen_layers(model))
            raise ValueError(
                f"Expected a scope that chooses kernels of {model.name!r}, whose "
                f"layers with kernels are {_few(names)}; not trained: {frozen}. "
                f"Received: {self}."
            )
        return chosen

    def explicit(self) -> "Scope":
        """Return a scope in which `None` for `first`, `last` and `small` is `True`."""
        names = ("first", "last", "small")
        return replace(self, **{n: getattr(self, n) is not False for n in names})

    def frozen_layers(self, model: keras.Model) -> list[str]:
        """Return the names of the layers left out only because they are not trained.

        Args:
            model: A model that `layers.prepare` was called on.
        """
        if self.frozen:
            return []
        matched = self._matched(kernels(model))
        trained = _trained(model, matched)
        return list(dict.fromkeys(k.layer.name for k in matched if k not in trained))

    def _matched(self, every):
        return [
            kernel
            for kernel in every
            if (self.only is None or _matches(self.only, kernel))
            and not (self.without is not None and _matches(self.without, kernel))
        ]

    def _excluded(self, every, trained):
        """Yield the first, last and small kernels that the scope leaves out."""
        groups = {
            "first": [k for k in every if k.outermost is every[0].outermost],
            "last": [k for k in every if k.outermost is every[-1].outermost],
            "small": [kernel for kernel in every if _is_small(kernel)],
        }
        total = _size(every, trained)
        for name, group in groups.items():
            allowed = getattr(self, name)
            if allowed is None:
                is_large = _size(group, trained) >= _LARGE_SHARE * total
                allowed = self.only is not None or is_large
            if not allowed:
                yield from group

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as Keras saves them; functions must be registered."""
        matchers = {"only": _to_config(self.only), "without": _to_config(self.without)}
        return {**vars(self), **matchers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a scope from what `get_config` returned."""
        matchers = {name: _from_config(config[name]) for name in ("only", "without")}
        earlier = {} if "small" in config else {"small": True, "frozen": True}
        return cls(**{**config, **earlier, **matchers})

    def __repr__(self):
        changed = (x for x in vars(self).items() if x not in vars(Scope()).items())
        return f"Scope({', '.join(f'{name}={_text(x)}' for name, x in changed)})"


def _trained(model, handles):
    trained = {id(variable) for variable in model.trainable_variables}
    return [kernel for kernel in handles if id(kernel.variable) in trained]


def _size(handles, trained):
    return sum(kernel.size for kernel in handles if kernel in trained)


def _is_small(kernel):
    shape = kernel.layout.shape
    depthwise = kernel.name == "depthwise_kernel" or isinstance(kernel.layer, DEPTHWISE)
    return depthwise or prod(shape[:-1]) < _SMALL_FAN_IN


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
    """Return the kernels that a scope selects in a prepared model.

    Args:
        model: A model that `layers.prepare` was called on.
        scope: `Scope` or a function from a model to kernels; `None` for `Scope()`.
    """
    return (Scope() if scope is None else scope)(model)


def kernels_by_member(
    model: keras.Model, scope: ScopeFunction | None
) -> list[list[Kernel]]:
    """Return the kernels that a scope selects, as a list for each member.

    A model that is not a `SideBySide` model has one such list.
    """
    selected = select_kernels(model, scope)
    members = [set(kernels(member)) for member in members_of(model)]
    return [[x for x in selected if x in member] for member in members]


def warn_of_frozen(model: keras.Model, scope: ScopeFunction | None) -> None:
    """Warn about the layers that a scope leaves out because they are not trained."""
    scope = Scope() if scope is None else scope
    names = scope.frozen_layers(model) if isinstance(scope, Scope) else []
    if names:
        warnings.warn(
            f"{len(names)} layers are not trained and therefore not pruned: "
            f"{_few(names)}. To prune them, pass `scope=layers.Scope(frozen=True)`.",
            stacklevel=3,
        )


def _matches(matcher, kernel):
    if _is_list(matcher):
        return any(_matches(one, kernel) for one in matcher)
    if isinstance(matcher, str):
        return matcher in _names(kernel)
    if isinstance(matcher, re.Pattern):
        return matcher.search(kernel.path) is not None
    if isinstance(matcher, type):
        return any(isinstance(x, matcher) for x in (*kernel.enclosing, kernel.layer))
    if callable(matcher):
        return bool(matcher(kernel.layer))
    raise TypeError(
        "Expected to match layers by a name, a compiled regular expression, a class, "
        f"a function or a list of these. Received: {matcher!r}."
    )


def _names(kernel):
    return [x.name for x in (*kernel.enclosing, kernel.layer)] + [kernel.path]


def _is_list(matcher):
    return isinstance(matcher, Sequence | set) and not isinstance(matcher, str)


def _check_names(matchers, every, model):
    known = [name for kernel in every for name in _names(kernel)]
    for matcher in matchers:
        for one in matcher if _is_list(matcher) else [matcher]:
            if isinstance(one, str) and one not in known:
                raise ValueError(
                    f"Expected the name of a layer with kernels of {model.name!r}: "
                    f"{_few(list(dict.fromkeys(known)))}. Received: {one!r}."
                )


def _few(names):
    return ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "none"
