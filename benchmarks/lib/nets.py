"""Networks of the benchmarks. All return logits."""

import keras
from keras import layers

from benchmarks.lib import vibration


def resnet8(input_shape=(32, 32, 3), n_classes=10, width=1.0):
    """ResNet-8, the image-classification net of MLPerf Tiny (78k parameters)."""
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, round(16 * width), rectify=True)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        x = _block(x, round(filters * width), strides, shortcut=strides > 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(n_classes)(x), name="resnet8")


def resnet20(input_shape=(32, 32, 3), n_classes=10, width=1.0):
    """ResNet-20 v1 of the ResNet paper, as Keras's example has it (274k)."""
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, round(16 * width), rectify=True)
    for filters, first in ((16, 1), (32, 2), (64, 2)):
        for strides in (first, 1, 1):
            x = _block(x, round(filters * width), strides, shortcut=strides > 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(n_classes)(x), name="resnet20")


def cifar10cnn(input_shape=(32, 32, 3), n_classes=10, width=1.0):
    """The convolutional net of Keras's CIFAR-10 example (1.25M parameters)."""
    model = keras.Sequential(name="cifar10cnn")
    model.add(keras.Input(input_shape))
    for filters in (round(32 * width), round(64 * width)):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    model.add(layers.Dense(round(512 * width), activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(n_classes))
    return model


def vgg16(input_shape=(32, 32, 3), n_classes=10, width=1.0):
    """VGG-16 with batch normalisation, as papers have it for CIFAR-10 (14.7M)."""
    x = inputs = keras.Input(input_shape)
    for filters, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            x = layers.Conv2D(
                round(filters * width),
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                kernel_regularizer=keras.regularizers.L2(1e-4),
            )(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(n_classes)(layers.Flatten()(x))
    return keras.Model(inputs, x, name="vgg16")


def resnet56(input_shape=(32, 32, 3), n_classes=10, width=1.0):
    """ResNet-56 v1 of the ResNet paper (0.86M)."""
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, round(16 * width), rectify=True)
    for filters, first in ((16, 1), (32, 2), (64, 2)):
        for strides in (first, *(1,) * 8):
            x = _block(x, round(filters * width), strides, shortcut=strides > 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(n_classes)(x), name="resnet56")


def ds_cnn(width=1.0):
    """DS-CNN for log-mel spectrograms of keywords (10k)."""
    x = inputs = keras.Input((61, 32, 1))
    filters = round(32 * width)
    x = layers.Conv2D(filters, (10, 4), (4, 2), padding="same", use_bias=False)(x)
    x = normalized(x)
    for strides in (2, 1, 1):
        x = separable(x, round(48 * width), strides)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="ds_cnn")


def conv1d(width=1.0):
    """Four 1-D convolutions for the vibration of `lib/vibration.py` (17k)."""
    x = inputs = keras.Input((vibration.LENGTH, 2))
    for filters, kernel, strides in ((16, 15, 4), (32, 7, 2), (48, 5, 2), (64, 3, 2)):
        x = layers.Conv1D(
            round(filters * width), kernel, strides, padding="same", use_bias=False
        )(x)
        x = normalized(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    classes = len(vibration.CLASSES)
    return keras.Model(inputs, layers.Dense(classes)(x), name="conv1d")


def separable(x, filters, strides):
    """Apply a depthwise and a pointwise convolution, each normalised and rectified."""
    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
    return normalized(layers.Conv2D(filters, 1, use_bias=False)(normalized(x)))


def normalized(x):
    """Apply batch normalisation and a rectifier."""
    return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))


def _block(x, filters, strides, *, shortcut):
    y = _convolution(x, filters, strides=strides, rectify=True)
    y = _convolution(y, filters)
    if shortcut:
        x = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
    return layers.ReLU()(layers.Add()([x, y]))


def _convolution(x, filters, *, strides=1, rectify=False):
    x = layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )(x)
    x = layers.BatchNormalization(momentum=0.95)(x)
    return layers.ReLU()(x) if rectify else x


NETS = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "cifar10cnn": cifar10cnn,
    "vgg16": vgg16,
    "resnet56": resnet56,
}
