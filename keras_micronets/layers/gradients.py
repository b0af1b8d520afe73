"""Batches of data for computations outside of the training step."""

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_micronets import _keras_private
from keras_micronets.layers.kernels import kernels
from keras_micronets.layers.quantization import quantizers

__all__ = ["FLOAT16_SCALE", "batches", "gradient_function", "kernel_gradients"]


def batches(
    data: Any, *, batch_size: int = 128, seed: int = 0, start: int = 0
) -> Iterator[tuple]:
    """Yield batches `(x, y, sample_weight)` of a data set, epoch after epoch.

    Callbacks that need gradients outside of the training step, for growth or
    importance, read their data here. The batches depend on the arguments only, so a
    resumed run continues where it stopped. Data are read when a batch is needed.

    Args:
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays or structures of
            arrays, shuffled each epoch; or batches: a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a PyTorch `DataLoader` or another iterable of such
            tuples.
        batch_size: Integer, number of samples in a batch of a tuple of arrays, at most
            all of them. Defaults to `128`.
        seed: Integer, for the order of a tuple of arrays. Defaults to `0`.
        start: Integer, number of batches to skip. Defaults to `0`.

    Yields:
        Tuples `(x, y, sample_weight)`; `None` stands for missing entries.

    Raises:
        ValueError: If the data can be read only once, as a generator.

    Example:

    ```python
    kmn.layers.prepare(model)
    x, y, _ = next(kmn.layers.batches((x_train, y_train), batch_size=32))
    gradients = kmn.layers.kernel_gradients(model, x, y)
    ```
    """
    if isinstance(data, tuple):
        return _of_arrays(data, batch_size, seed, start)
    if isinstance(data, keras.utils.PyDataset):
        return (_triple(data[index % len(data)]) for index in count(start))
    return map(_triple, islice(_repeat(data), start, None))


def _of_arrays(data, batch_size, seed, start):
    n_samples = len(keras.tree.flatten(data)[0])
    batch_size = min(batch_size, n_samples)
    n_batches = n_samples // batch_size
    shuffled, order = None, np.arange(n_samples)
    for index in count(start):
        epoch, batch = divmod(index, n_batches)
        if shuffled != epoch:
            shuffled = epoch
            order = np.random.default_rng((seed, epoch)).permutation(n_samples)
        rows = order[batch * batch_size : (batch + 1) * batch_size]
        yield _triple(_rows_of(data, rows))


def _rows_of(data, rows):
    return keras.tree.map_structure(
        lambda array: None if array is None else np.asarray(array)[rows], data
    )


def _repeat(data):
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "Expected data that can be read repeatedly: a tuple of arrays, a list "
                f"of batches or a data set. Received: {data!r}, now without batches."
            )


def _triple(batch):
    if not isinstance(batch, list | tuple):
        return batch, None, None
    x, y, sample_weight = (*batch, None, None)[:3]
    return x, y, sample_weight


_kept = weakref.WeakKeyDictionary()


def gradient_function(model: keras.Model) -> Callable:
    """Return the compiled function that computes the gradients of a model's kernels.

    It is kept until the model is compiled or prepared again. It refers to the model
    weakly, so it does not keep the model alive. Its arguments are a batch, a tuple of
    tensors `(x, y, sample_weight)`, and a factor of the loss.
    """
    make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    make = make[keras.backend.backend()]
    reference = weakref.ref(model)
    if any(quantizer.constant is not None for quantizer in quantizers(model)):
        return _settled(make(reference))
    loss = _keras_private.compiled_loss(model)
    variables = [id(variable) for variable in model.variables]
    known = _kept.get(model)
    if known is None or known[0]() is not loss or known[1] != variables:
        compiled = (lambda: None) if loss is None else weakref.ref(loss)
        _kept[model] = known = compiled, variables, _settled(make(reference))
    return known[2]


def _settled(function):
    """Create the variables that a loss of several outputs needs in its first trace."""

    def call(batch, scale):
        gradients = function(batch, scale)
        with keras.StatelessScope():
            pass  # at its end Keras initialises the variables that were requested
        return gradients

    return call


def _zeros(model):
    shapes = [kernel.variable.shape for kernel in kernels(model)]
    return [ops.zeros(shape, "float32") for shape in shapes]


def _values(model):
    return [variable.value for variable in model.variables]


def _loss(model, probes, batch, scale, values):
    """Return the loss of a training step, with tensors added to the kernels."""
    x, y, sample_weight = batch
    state = zip(model.variables, values, strict=True)
    scope = keras.StatelessScope(state, collect_losses=True, initialize_variables=False)
    with scope, _probed(model, probes):
        arguments = {
            "x": x,
            "y": y,
            "y_pred": model(x, training=True),
            "sample_weight": sample_weight,
        }
        if "training" in inspect.signature(model.compute_loss).parameters:
            arguments["training"] = True
        return ops.cast(model.compute_loss(**arguments), "float32") * scale


@contextmanager
def _probed(model, probes):
    """Let each layer add a tensor to its masked kernel, before the fake quantiser."""
    handles = kernels(model)
    added = {
        (handle.layer, handle.name): probe
        for handle, probe in zip(handles, probes, strict=True)
    }
    for layer in {handle.layer for handle in handles}:
        layer.probe = lambda name, kernel, layer=layer: ops.add(
            kernel, ops.cast(added[layer, name], kernel.dtype)
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.layer.probe = None


def _tensorflow(model):
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def gradients(batch, scale):
        probes = _zeros(model())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(probes)
            loss = _loss(model(), probes, batch, scale, _values(model()))
        return tape.gradient(
            loss, probes, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    return lambda batch, scale: gradients(batch, tf.constant(scale, "float32"))


def _jax(model):
    import jax

    @jax.jit
    def gradients(values, batch, scale):
        def loss(probes):
            return _loss(model(), probes, batch, scale, values)

        return jax.grad(loss)(_zeros(model()))

    return lambda batch, scale: gradients(_values(model()), batch, scale)


def _torch(model):
    import torch

    def gradients(batch, scale):
        devices = range(torch.cuda.device_count())
        # Dropout without a seed uses PyTorch's global generators.
        with torch.enable_grad(), torch.random.fork_rng(devices):
            probes = [probe.requires_grad_() for probe in _zeros(model())]
            loss = _loss(model(), probes, batch, scale, _values(model()))
            return torch.autograd.grad(
                loss, probes, allow_unused=True, materialize_grads=True
            )

    return gradients


# The first scale of a float16 loss, that of Keras's `LossScaleOptimizer`.
FLOAT16_SCALE = 2.0**15


def kernel_gradients(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None
) -> list[np.ndarray]:
    """Return the gradient of the loss with respect to each kernel, masked or not.

    It is the gradient with respect to the effective kernel, so masked weights have one
    too. The loss is as in a training step: the compiled loss and the losses that
    layers add when called, with batch statistics, dropout and fake quantisers.
    Regularisers of the raw weights are not part of it. Statistics, ranges, seeds and
    metrics are left unchanged.

    It is compiled once for each model and batch shape. The training step is not
    changed.

    Args:
        model: A compiled and prepared model.
        x: Batch of inputs: an array, a tensor or a structure of them.
        y: Batch of targets, likewise. Defaults to `None`.
        sample_weight: Array of shape `(batch,)`. Defaults to `None`.

    Returns:
        A list of float32 arrays, one for each kernel in the order of `kernels(model)`.

    Raises:
        ValueError: If the model is not compiled, or has no kernel.

    Example:

    ```python
    kmn.layers.prepare(model)
    gradients = kmn.layers.kernel_gradients(model, x[:16], y[:16])
    ```

    Reference: Evci et al. 2020, "Rigging the lottery: making all tickets winners",
    which grows weights where this gradient is largest.
    """
    _check(model)
    batch = keras.tree.map_structure(_as_tensor, (x, y, sample_weight))
    function = gradient_function(model)
    scale = FLOAT16_SCALE if _computes_in_float16(model) else 1.0
    while True:
        gradients = [
            np.array(ops.convert_to_numpy(gradient), "float32")
            for gradient in function(batch, scale)
        ]
        if scale == 1.0 or all(np.isfinite(gradient).all() for gradient in gradients):
            return [gradient / np.float32(scale) for gradient in gradients]
        scale = max(1.0, scale / 8)


def _check(model):
    if not model.compiled:
        raise ValueError(
            "Expected a compiled model, for the gradient of its loss. Received: "
            f"{model.name!r}, which is not compiled. Call `compile` with a loss."
        )
    if not kernels(model):
        raise ValueError(
            "Expected a prepared model, whose kernels have masks. Received: "
            f"{model.name!r}. Call `keras_micronets.layers.prepare(model)` first."
        )


def _as_tensor(array):
    if array is None:
        return None
    if not ops.is_tensor(array):
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.floating):
            array = array.astype(keras.config.floatx())
    return ops.convert_to_tensor(array)


def _computes_in_float16(model):
    layers = _keras_private.flatten_layers(model)
    return any(layer.compute_dtype == "float16" for layer in layers)
