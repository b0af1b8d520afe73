import keras

from keras_micronets import _keras_private
from keras_micronets.layers.kernel import kernels
from keras_micronets.layers.state import State
from keras_micronets.layers.twins import is_twin, plain_class


def strip(model: keras.Model) -> keras.Model:
    """Return a plain Keras copy of a promoted model, with its zeros baked in.

    The copy has the layers and names that the model had before promotion, none
    of this package's classes, and is not compiled. Masked weights are zero; fake
    quantisers are gone, and the weights are the raw ones.

    Args:
        model: A built Keras model, promoted or not. A subclassed model needs a
            `get_config` that its constructor accepts, as for saving.

    Returns:
        A new Keras model with the same outputs up to the fake quantisers.

    Example:

    ```python
    plain = keras_micronets.strip(model)
    plain.save("plain.keras")  # loads without this package
    ```
    """
    plain = _copy_structure(model)
    values = {id(k.layer.raw(k.name)): k.layer.masked(k.name) for k in kernels(model)}
    for target, source in zip(plain.variables, _plain_variables(model), strict=True):
        target.assign(values.get(id(source), source))
    return plain


def _copy_structure(model):
    if _keras_private.is_functional(model):
        return keras.models.clone_model(
            model, clone_function=_plain_copy, recursive=True
        )
    plain = type(model).from_config(model.get_config())
    plain.build_from_config(model.get_build_config())
    return plain


def _plain_copy(layer):
    config = layer.get_config()
    if is_twin(layer):
        config.pop("quantizers")
    return plain_class(layer).from_config(config)


def _plain_variables(model):
    ours = {
        id(variable)
        for layer in _keras_private.flatten_layers(model)
        if isinstance(layer, State)
        for variable in layer.variables
    }
    return [variable for variable in model.variables if id(variable) not in ours]
