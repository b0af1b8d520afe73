import keras
import matplotlib
import pytest
from model_cases import images, nested, residual, sequential, subclassed

from keras_micronets import layers

matplotlib.use("Agg")


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_every_layer_has_a_box_and_every_rounded_tensor_a_range():
    model = residual()
    layers.prepare(model, quantize=True)
    layers.set_quantizers(model, True)
    model(images(), training=True)
    figure = layers.plot_quantizers(model)
    shown = " ".join(texts(figure))
    rows = layers.quantization_report(model).rows
    tensors = [row for row in rows if row.tensor != "kernel"]
    assert all(layer.name in shown for layer in model.layers)
    assert sum(text.startswith("[") for text in texts(figure)) == len(tensors)
    assert len(figure.axes[0].lines) == len(tensors)


def test_fused_layers_are_drawn_close_together():
    model = residual()
    layers.prepare(model, quantize=True)
    figure = layers.plot_quantizers(model)
    height = {
        t.get_text().split("\n")[0]: t.get_position()[1] for t in figure.axes[0].texts
    }
    fused = height["conv1"] - height["bn1"]
    apart = height["relu1"] - height["conv2"]
    assert 0 < fused < apart


@pytest.mark.parametrize("make", [sequential, nested])
def test_ranges_without_data(make):
    model = make()
    layers.prepare(model, quantize=True)
    assert "no data" in texts(layers.plot_quantizers(model))


def test_draws_on_given_axes():
    ax = matplotlib.figure.Figure().add_subplot()
    assert layers.plot_quantizers(sequential(), ax) is ax.figure
    assert "conv\nConv2D" in texts(ax.figure)


def test_float_operations_are_red():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 1, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.UnitNormalization(name="unit")(x))
    layers.prepare(model, quantize=True)
    (axes,) = layers.plot_quantizers(model).axes
    face = {
        text.get_text().split("\n")[0]: text.get_bbox_patch().get_facecolor()
        for text in axes.texts
        if text.get_bbox_patch()
    }
    red, _, blue, _ = face["unit"]
    assert red > blue
    assert face["conv"] != face["unit"]


def test_a_subclassed_model_has_no_graph():
    model = subclassed()
    model(images())
    with pytest.raises(ValueError, match="which has a graph to plot"):
        layers.plot_quantizers(model)
