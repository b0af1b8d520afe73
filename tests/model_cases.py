"""Small models of every kind that preparation, copies and placement must serve."""

import keras
import numpy as np

SHAPE = (6, 6, 3)


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.ReLU(name="relu"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def residual(filters=4, shape=SHAPE, classes=3):
    inputs = keras.Input(shape, name="image")
    x = keras.layers.Conv2D(filters, 3, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = shortcut = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Conv2D(filters, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(name="bn2")(x)
    x = keras.layers.Add(name="add")([x, shortcut])
    x = keras.layers.ReLU(name="relu2")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    x = keras.layers.Dense(classes, activation="softmax", name="head")(x)
    return keras.Model(inputs, x)


def nested():
    inner_inputs = keras.Input((6, 6, 4))
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(inner_inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    inner = keras.Model(inner_inputs, x, name="inner")
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 1, name="stem")(inputs)
    x = inner(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def shared():
    inputs = keras.Input(SHAPE)
    conv = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    x = keras.layers.Flatten(name="flatten")(conv(conv(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def resnet(*, softmax=True):
    """ResNet-8 in small: three residual blocks, for the digits."""

    def conv(x, filters, size=3, strides=1):
        layer = keras.layers.Conv2D(
            filters, size, strides=strides, padding="same", use_bias=False
        )
        return layer(x)

    def norm(x):
        return keras.layers.BatchNormalization(momentum=0.9)(x)

    def relu(x):
        return keras.layers.ReLU()(x)

    inputs = keras.Input((8, 8, 1))
    x = relu(norm(conv(inputs, 8)))
    for filters, strides in ((8, 1), (16, 2), (32, 2)):
        y = norm(conv(relu(norm(conv(x, filters, 3, strides))), filters))
        x = x if strides == 1 else conv(x, filters, 1, strides)
        x = relu(keras.layers.Add()([y, x]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    activation = "softmax" if softmax else None
    return keras.Model(inputs, keras.layers.Dense(10, activation=activation)(x))


@keras.saving.register_keras_serializable("model_cases")
class Subclassed(keras.Model):
    def __init__(self, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.conv = keras.layers.Conv2D(4, 3, activation="relu", name="conv")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.flatten = keras.layers.Flatten(name="flatten")
        self.head = keras.layers.Dense(classes, name="head")

    def call(self, inputs, training=None):
        x = self.norm(self.conv(inputs), training=training)
        return self.head(self.flatten(x))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


MODELS = {
    "sequential": sequential,
    "residual": residual,
    "nested": nested,
    "shared": shared,
    "subclassed": subclassed,
}


def images(n=32, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype("float32")


def labels(n=32, seed=0, classes=3):
    return np.random.default_rng(seed).integers(0, classes, n).astype("int32")


def outputs(model, x=None):
    x = images() if x is None else x
    return keras.ops.convert_to_numpy(model(x, training=False))
