"""Document selection methods with the signature that their decorator gives them."""

import inspect
from typing import Any

import griffe

__all__ = ["SelectionMethods"]


class SelectionMethods(griffe.Extension):
    """Replace the source's signature of decorated functions by that at run time."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if not any("ordering_method(" in str(d.value) for d in func.decorators):
            return
        method = griffe.dynamic_import(func.path)
        added = [*inspect.signature(method).parameters.values()][:3]
        func.parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    parameter.name,
                    annotation=parameter.annotation.__name__,
                    kind=griffe.ParameterKind.positional_or_keyword,
                    default=None
                    if parameter.default is parameter.empty
                    else repr(parameter.default),
                )
                for parameter in added
            ),
            *list(func.parameters)[1:],
        )
        func.returns = "Selection"
        if func.docstring is not None:
            func.docstring.value = method.__doc__
