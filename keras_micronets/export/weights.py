"""Weights of which no sound file comes."""

import keras
import numpy as np

FLOAT16_LIMITS = (float(np.finfo("float16").tiny), float(np.finfo("float16").max))


def check_weights(model: keras.Model, quantization: str | None) -> None:
    """Raise a `ValueError` if a model's weights cannot go into a file.

    Args:
        model: A built model.
        quantization: As `export_tflite` takes it.
    """
    values = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.variables
        if "float" in variable.dtype
    }
    broken = [path for path, value in values.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"Expected a model whose weights are finite. Received: {model.name!r} with "
            f"NaN or infinity in {', '.join(broken[:5])}. Its training went wrong: "
            "try a smaller learning rate, or an earlier checkpoint."
        )
    if quantization == "float16":
        _check_float16({path: x for path, x in values.items() if x.ndim > 1})


def _check_float16(kernels):
    lower, upper = FLOAT16_LIMITS
    sizes = {path: float(np.abs(x).max(initial=0)) for path, x in kernels.items()}
    outside = {
        p: size for p, size in sizes.items() if size and not lower < size < upper
    }
    if outside:
        path, size = next(iter(outside.items()))
        raise ValueError(
            f"Expected kernels whose largest weight float16 can hold, from {lower:.2g} "
            f"to {upper:.0f}. Received: {path} with {size:.3g}, one of {len(outside)} "
            "kernels. Choose another `quantization`."
        )
