"""Separate the random layers at the front of a model from the rest."""

import keras

from keras_micronets import _keras_private, layers
from keras_micronets.layers.clone import as_not_compiled

__all__ = ["random_layers", "split_augmentation"]


def split_augmentation(model: keras.Model) -> tuple[keras.Sequential, keras.Model]:
    """Return the augmentation layers at the front of a model, and the model without.

    Within the student they would show it other images than its teacher, whose outputs
    are computed before the training step. Give them to `keras_micronets.distill`,
    which augments each batch once, for both.

    Args:
        model: A built sequential or functional model, not prepared yet. Its random
            layers (`RandomFlip`, `RandomRotation`, `GaussianNoise` and so on, also
            nested in `Sequential`) come first; layers such as `Rescaling` follow.

    Returns:
        A tuple `(augmentation, network)`: a `keras.Sequential` of copies of the random
        layers, and a copy of the model with the same weights, not compiled, in which
        `Identity` layers take their places. It predicts what the model predicts.

    Raises:
        ValueError: If the first layer is not random, a random layer comes later or
            changes the shape (`RandomCrop`), or the model is prepared.

    Example:

    ```python
    body = [keras.layers.Flatten(), keras.layers.Dense(2)]
    student = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.RandomFlip(), *body]
    )
    augmentation, network = kmn.split_augmentation(student)
    network.compile("adam", kmn.losses.Distillation(from_logits=True))
    network.fit(kmn.distill(model, x, y, augmentation=augmentation))
    ```
    """
    if layers.kernels(model):
        raise ValueError(
            "Expected a model that is not prepared. Received: "
            f"{model.name!r}. Split it before it is pruned or quantised."
        )
    front = _front(model)
    found = random_layers(model)
    if not front or not {*found} <= {x for one in front for x in _nested(one)}:
        raise ValueError(
            "Expected a model whose first layers are random and keep the shape, and no "
            f"random layer after others. Received: {model.name!r} with the random "
            f"layers {[layer.name for layer in found]}. Put them first, or "
            "leave them out of the model and pass them to `distill` as `augmentation`."
        )

    def copy(layer):
        if layer in front:
            return keras.layers.Identity(name=layer.name)
        return _copy(layer)

    with as_not_compiled(model):
        network = keras.models.clone_model(model, clone_function=copy)
    network.set_weights(model.get_weights())
    return keras.Sequential([_copy(layer) for layer in front]), network


def random_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of a model that augment images at random."""
    return [x for x in _keras_private.flatten_layers(model) if _augments_images(x)]


def _front(model):
    """Return the random layers that come before all others, in one chain."""
    front = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not all(_keeps_shape(one) for one in _nested(layer)):
            break
        front.append(layer)
    return front


def _nested(layer):
    """Return the layers that a `Sequential` applies, or the layer itself."""
    if not isinstance(layer, keras.Sequential):
        return [layer]
    return [one for inner in layer.layers for one in _nested(inner)]


def _keeps_shape(layer):
    noise = (keras.layers.GaussianNoise, keras.layers.GaussianDropout)
    is_crop = isinstance(layer, keras.layers.RandomCrop)
    return isinstance(layer, noise) or (_augments_images(layer) and not is_crop)


def _augments_images(layer):
    name = type(layer).__name__
    is_named = name.startswith(("Random", "RandAugment", "AugMix"))
    return is_named and getattr(keras.layers, name, None) is type(layer)


def _copy(layer):
    return type(layer).from_config(layer.get_config())
