"""The row of `cifar10/quantization.py` for tfmot on `tf_keras`."""

import numpy as np

from benchmarks.callbacks.overhead_sections import nets_of
from keras_micronets.edge.member import Member, quantize
from keras_micronets.export.flatbuffer import read_flatbuffer


def row(experiment):
    """Train with tfmot from the experiment's parent, and score its file.

    The same net with the same weights, the same batches, optimizer and learning
    rates as the rows beside it.
    """
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    legacy = nets_of(tf_keras).resnet8()
    legacy.set_weights(experiment.parent)
    tf_keras.utils.set_random_seed(experiment.seed + 1)
    model = tfmot.quantization.keras.quantize_model(legacy)
    preset = experiment.preset
    experiment.fit(model, preset.epochs, preset.peak, framework=tf_keras)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content = converter.convert()
    flatbuffer, file = read_flatbuffer(content), Member(content)
    raw = file.predict_raw(experiment.test[0]).astype(int)
    predicted = model.predict(experiment.test[0], verbose=0)
    rounded = quantize(predicted, file.output_dtype, *file.output_quantization)
    return {
        **experiment.score_file(content),
        "bytes": flatbuffer.n_bytes,
        "gzip_bytes": flatbuffer.gzip_bytes,
        "operations": sum(flatbuffer.operations.values()),
        "float": sum(flatbuffer.float_operations.values()),
        "equal": float(np.mean(raw == rounded)),
    }
