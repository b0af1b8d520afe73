"""The networks that the benchmarks train. All put out logits."""

import keras
from keras import layers


def resnet8(input_shape=(32, 32, 3), n_classes=10):
    """ResNet-8, the image-classification net of MLPerf Tiny (78k parameters)."""
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, 16, rectify=True)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = _convolution(x, filters, strides=strides, rectify=True)
        y = _convolution(y, filters)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(n_classes)(x), name="resnet8")


def cifar10cnn(input_shape=(32, 32, 3), n_classes=10):
    """The convolutional net of Keras's CIFAR-10 example (1.25M parameters)."""
    model = keras.Sequential(name="cifar10cnn")
    model.add(keras.Input(input_shape))
    for filters in (32, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(n_classes))
    return model


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


NETS = {"resnet8": resnet8, "cifar10cnn": cifar10cnn}
