"""`compress`: from a training set to the int8 file of one network."""

import keras
import numpy as np
import pytest

import keras_micronets as kmn
from keras_micronets.callbacks import WeightPruning

pytestmark = pytest.mark.tensorflow


def build():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def test_a_path_is_checked_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        kmn.compress(build, None, validation_data=(0, 0), path=tmp_path / "net.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_file_is_the_student(tmp_path, digits):
    train, choose, (x, y) = digits
    path = tmp_path / "net.tflite"
    built, epochs = [], []

    def counted():
        built.append(1)
        return build()

    def count(epoch, logs=None):
        epochs.append(epoch)

    def run(student_epochs=None):
        epochs.clear()
        counter = keras.callbacks.LambdaCallback(on_epoch_end=count)
        return kmn.compress(
            counted,
            *train,
            validation_data=choose,
            path=path,
            n_teachers=2,
            epochs=8,
            student_epochs=student_epochs,
            batch_size=16,
            callbacks=[WeightPruning(0.5, scope=everything), counter],
            verbose=0,
        )

    everything = kmn.layers.Scope(first=True, last=True, small=True)
    result = run()
    assert len(built) == 3
    assert len(epochs) == 24
    assert len(result.pool) == 2
    assert result.export_report.calibration == "learned"
    assert kmn.layers.sparsity(result.student) == pytest.approx(0.5, abs=0.02)
    scores = result.evaluate(x, y)
    accuracy, loss = scores["int8 file"]
    predicted = result.student.predict(x, verbose=0)
    assert accuracy == pytest.approx(np.mean(predicted.argmax(-1) == y), abs=0.01)
    assert accuracy > 0.8
    assert loss < 0.8
    assert scores["ensemble"][0] >= scores["mean of single teachers"][0] - 0.01

    path.unlink()
    again = run(student_epochs=20)  # the teachers are in the pool
    assert len(built) == 4
    assert len(epochs) == 20
    assert len(again.pool) == 2
    assert again.evaluate(x, y)["int8 file"][0] == pytest.approx(accuracy, abs=0.05)
