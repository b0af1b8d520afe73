"""Custom training loops, as in the guides of each backend."""

import keras
from backends import BACKEND


def train(model, x, y, steps, after_step):
    """Train on one batch over and over.

    Args:
        model: A prepared model, not compiled.
        x: Array of inputs.
        y: Array of class numbers.
        steps: Integer, how many steps.
        after_step: Function of the number of steps done.
    """
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    x, y = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
    make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    step = make(model, optimizer)
    for done in range(1, steps + 1):
        step(x, y)
        after_step(done)


def _loss(y, outputs):
    losses = keras.losses.sparse_categorical_crossentropy(y, outputs)
    return keras.ops.mean(losses)


def _tensorflow(model, optimizer):
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = _loss(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return step


def _jax(model, optimizer):
    import jax

    def loss_of(trainable, others, x, y):
        outputs, others = model.stateless_call(trainable, others, x, training=True)
        return _loss(y, outputs), others

    @jax.jit
    def compiled(trainable, others, slots, x, y):
        take = jax.value_and_grad(loss_of, has_aux=True)
        (_, others), gradients = take(trainable, others, x, y)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, others, slots

    def step(x, y):
        state = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
        values = [[variable.value for variable in part] for part in state]
        for part, new in zip(state, compiled(*values, x, y), strict=True):
            for variable, value in zip(part, new, strict=True):
                variable.assign(value)

    return step


def _torch(model, optimizer):
    import torch

    def step(x, y):
        model.zero_grad()
        _loss(y, model(x, training=True)).backward()
        gradients = [variable.value.grad for variable in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_variables)

    return step
