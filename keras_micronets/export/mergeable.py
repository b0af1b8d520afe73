"""Which models can become one file."""

from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from keras_micronets.edge.member import Member

#: Operations that remember something from one input to the next.
_STATEFUL = ("VAR_HANDLE", "HASHTABLE", "CALL_ONCE")


def check_mergeable(members: Sequence[Member], models: Sequence[schema.ModelT]) -> None:
    """Raise a `ValueError` unless models can go into one file.

    Args:
        members: The models, as LiteRT runs them.
        models: The same, as their files hold them.
    """
    names = [member.name for member in members]
    if not names or len({*names}) != len(names):
        raise ValueError(f"Expected members, each of its own name. Received: {names}.")
    for member, model in zip(members, models, strict=True):
        _check_alone(member, model)
    kinds = {
        m.name: (_sizes(input_tensor(model)), m.output_shape)
        for m, model in zip(members, models, strict=True)
    }
    if len({*kinds.values()}) != 1 or len(members[0].output_shape) != 1:
        raise ValueError(
            "Expected members of one input shape, batch included, and of outputs "
            f"(samples, classes). Received: {kinds}."
        )


def input_tensor(model: schema.ModelT) -> schema.TensorT:
    """Return the input of a model."""
    graph = model.subgraphs[0]
    return graph.tensors[graph.inputs[0]]


def _check_alone(member, model):
    codes = {max(x.builtinCode, x.deprecatedBuiltinCode) for x in model.operatorCodes}
    stateful = {getattr(schema.BuiltinOperator, name) for name in _STATEFUL}
    tensors, buffers = model.subgraphs[0].tensors, model.buffers
    steps = member.input_quantization[0]
    wrong = {
        "control flow (several graphs)": len(model.subgraphs) > 1,
        "variables": any(tensor.isVariable for tensor in tensors) or codes & stateful,
        "constants outside the graph": any(x.size for x in buffers)
        or any(tensor.externalBuffer for tensor in tensors)
        or any(x.largeCustomOptionsSize for x in model.subgraphs[0].operators),
        f"inputs of {member.input_dtype}": not steps
        and member.input_dtype != "float32",
        f"outputs of {member.output_dtype}": not member.output_quantization[0]
        and member.output_dtype != "float32",
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ValueError(
            "Expected members of operations and constants alone, from and to floats or "
            f"quantised integers, to put into one file. Received: {member.name!r}, "
            f"with {', '.join(found)}. Export a bundle."
        )


def _sizes(tensor):
    signature = tensor.shapeSignature
    return tuple(int(n) for n in (tensor.shape if signature is None else signature))
