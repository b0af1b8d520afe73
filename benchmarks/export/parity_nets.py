"""Networks for `export/parity.py`."""

import functools

import keras
from keras import layers, ops

from benchmarks.lib import nets

SIZES = {"Xception": 72}  # the smallest that it takes


def ds_cnn():
    """The keyword-spotting net of MLPerf Tiny: 49 frames of 10 coefficients."""
    x = inputs = keras.Input((49, 10, 1))
    x = _normalized(layers.Conv2D(64, (10, 4), strides=2, padding="same"))(x)
    x = layers.Dropout(0.2)(x)
    for _ in range(4):
        x = _separable(x, 64)
    x = layers.Dropout(0.4)(x)
    x = layers.AveragePooling2D(x.shape[1:3])(x)
    x = layers.Dense(12, activation="softmax")(layers.Flatten()(x))
    return keras.Model(inputs, x, name="ds_cnn")


def mobilenet_v1():
    """MobileNetV1 of width 0.25, the visual-wake-words net of MLPerf Tiny."""
    x = inputs = keras.Input((96, 96, 3))
    x = _normalized(layers.Conv2D(8, 3, strides=2, padding="same"))(x)
    for filters, strides in (
        *((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)),
        *[(128, 1)] * 5,
        *((256, 2), (256, 1)),
    ):
        x = _separable(x, filters, strides)
    x = layers.AveragePooling2D(x.shape[1:3])(x)
    x = layers.Dense(2, activation="softmax")(layers.Flatten()(x))
    return keras.Model(inputs, x, name="mobilenet_v1")


def autoencoder():
    """The anomaly-detection net of MLPerf Tiny: 640 values of a spectrogram."""
    x = inputs = keras.Input((640,))
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = _normalized(layers.Dense(units))(x)
    return keras.Model(inputs, layers.Dense(640)(x), name="autoencoder")


def sensor():
    """A convolutional net over windows of 128 samples of 6 sensors."""
    x = inputs = keras.Input((128, 6))
    for filters in (32, 64):
        x = _normalized(layers.Conv1D(filters, 5, strides=2, padding="same"))(x)
    x = layers.GlobalAveragePooling1D()(layers.MaxPooling1D(2)(x))
    return keras.Model(inputs, layers.Dense(6)(x), name="sensor")


def application(name):
    """A net of `keras.applications`, not trained, for small images and 20 classes."""
    size = SIZES.get(name, 64)
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=20,
        classifier_activation=None,
    )


def shared_head():
    """One head on two levels of a pyramid, as object detectors have it."""
    inputs = keras.Input((32, 32, 3))
    fine = _normalized(layers.Conv2D(16, 3, strides=2, padding="same"))(inputs)
    coarse = _normalized(layers.Conv2D(16, 3, strides=2, padding="same"))(fine)
    hidden = layers.Conv2D(16, 3, padding="same", activation="relu")
    boxes = layers.Conv2D(4, 1)
    levels = [boxes(hidden(level)) for level in (fine, 3.0 * coarse)]
    return keras.Model(inputs, levels, name="shared_head")


def variational():
    """A variational autoencoder whose mean and variance are outputs too."""
    inputs = keras.Input((64,))
    x = layers.Dense(32, activation="relu")(inputs)
    mean, log_variance = layers.Dense(8)(x), layers.Dense(8)(x)
    code = mean + ops.exp(0.5 * log_variance)
    decoded = layers.Dense(64)(layers.Dense(32, activation="relu")(code))
    outputs = [decoded, mean, log_variance]
    return keras.Model(inputs, outputs, name="variational")


def u_net():
    """Two levels down and up again, with concatenations across."""
    inputs = keras.Input((32, 32, 1))
    first = _normalized(layers.Conv2D(8, 3, padding="same"))(inputs)
    second = _normalized(layers.Conv2D(16, 3, padding="same"))(
        layers.MaxPooling2D()(first)
    )
    x = _normalized(layers.Conv2D(32, 3, padding="same"))(layers.MaxPooling2D()(second))
    for skip, filters in ((second, 16), (first, 8)):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.Concatenate()([x, skip])
        x = _normalized(layers.Conv2D(filters, 3, padding="same"))(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x), name="u_net")


def yolo_head():
    """Offsets, sizes and classes of a grid, split from one convolution."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for filters in (8, 16, 32):
        x = _normalized(layers.Conv2D(filters, 3, strides=2, padding="same"))(x)
    x = layers.Reshape((16, 9))(layers.Conv2D(9, 1)(x))
    offsets, sizes, classes = ops.split(x, [2, 4], axis=-1)
    outputs = [layers.Activation("sigmoid")(offsets), ops.exp(sizes), classes]
    return keras.Model(inputs, outputs, name="yolo_head")


def partial_stages():
    """Half of the channels pass a stage (CSP), then channels are shuffled."""
    inputs = keras.Input((32, 32, 3))
    x = _normalized(layers.Conv2D(16, 3, strides=2, padding="same"))(inputs)
    for _ in range(2):
        kept, changed = ops.split(x, 2, axis=-1)
        changed = _separable(changed, 8)
        x = layers.Concatenate()([kept, changed])
        x = layers.Reshape((16, 16, 2, 8))(x)
        x = layers.Reshape((16, 16, 16))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="partial_stages")


def siamese():
    """One encoder for two inputs, and the distance of their codes."""
    a, b = keras.Input((32, 3), name="a"), keras.Input((32, 3), name="b")
    inner = keras.Input((32, 3))
    x = layers.Conv1D(8, 5, activation="relu")(inner)
    encoder = keras.Model(inner, layers.Dense(8)(layers.GlobalAveragePooling1D()(x)))
    distance = layers.Subtract()([encoder(a), encoder(b)])
    return keras.Model([a, b], layers.Dense(1)(ops.square(distance)), name="siamese")


def masked_text():
    """The mean of the words' embeddings, without those of padding."""
    inputs = keras.Input((16,), dtype="int32")
    x = layers.Embedding(50, 12, mask_zero=True)(inputs)
    x = layers.Dense(16, activation="relu")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(4)(x), name="masked_text")


def photograph():
    """A net that reads bytes and rescales them itself."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for filters in (8, 16):
        x = _normalized(layers.Conv2D(filters, 3, strides=2, padding="same"))(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="photograph")


def half_precision():
    """The sensor net, trained in bfloat16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return sensor()
    finally:
        keras.config.set_dtype_policy(before)


def transformer():
    """One block of attention over 16 steps."""
    inputs = keras.Input((16, 8))
    x = layers.Dense(16)(inputs)
    normalized = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(normalized, normalized)])
    hidden = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(16)(hidden)])
    x = layers.Dense(4)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, x, name="transformer")


def recurrent(name):
    """A recurrent layer over windows of 32 samples of 6 sensors."""
    inputs = keras.Input((32, 6))
    layer = getattr(layers, name)(16, unroll=True)
    return keras.Model(inputs, layers.Dense(6)(layer(inputs)), name=name.lower())


def _normalized(layer):
    def apply(x):
        return layers.ReLU()(layers.BatchNormalization()(layer(x)))

    return apply


def _separable(x, filters, strides=1):
    x = _normalized(layers.DepthwiseConv2D(3, strides=strides, padding="same"))(x)
    return _normalized(layers.Conv2D(filters, 1, padding="same"))(x)


MLPERF_TINY = {
    "ResNet-8": nets.resnet8,
    "DS-CNN": ds_cnn,
    "MobileNetV1 0.25": mobilenet_v1,
    "autoencoder": autoencoder,
}
PATTERNS = {
    "shared head": shared_head,
    "variational autoencoder": variational,
    "U-Net": u_net,
    "YOLO-like head": yolo_head,
    "CSP and shuffle": partial_stages,
    "siamese": siamese,
    "masked text": masked_text,
    "uint8 photograph": photograph,
    "trained in bfloat16": half_precision,
    "transformer block": transformer,
    "LSTM": functools.partial(recurrent, "LSTM"),
    "GRU": functools.partial(recurrent, "GRU"),
}
APPLICATIONS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"),
    *("ResNet50V2", "DenseNet121", "VGG16", "Xception", "NASNetMobile"),
)
NETS = {
    **MLPERF_TINY,
    "Conv1D, sensors": sensor,
    **PATTERNS,
    **{name: functools.partial(application, name) for name in APPLICATIONS},
}
