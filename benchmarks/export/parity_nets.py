"""Networks for `export/parity.py`."""

import functools

import keras
from keras import layers

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
APPLICATIONS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"),
    *("ResNet50V2", "DenseNet121", "VGG16", "Xception", "NASNetMobile"),
)
NETS = {
    **MLPERF_TINY,
    "Conv1D, sensors": sensor,
    **{name: functools.partial(application, name) for name in APPLICATIONS},
}
