"""Distillation: the loss, the batches, and what `fit` makes of them."""

import keras
import numpy as np
import pytest

import keras_micronets as kmn
from keras_micronets.callbacks import (
    ChannelPruning,
    Cycle,
    DynamicSparseTraining,
    LearnerCheckpoint,
    LearnerCycles,
    QuantizationAwareTraining,
    WeightPruning,
    masks,
)
from keras_micronets.losses import Distillation, pack

SPARSE = keras.losses.SparseCategoricalCrossentropy


def network(outputs=3, *, activation=None, front=(), name=None):
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            *front,
            keras.layers.Conv2D(4, 3),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(outputs, activation=activation),
        ],
        name=name,
    )


def student(outputs=3, loss=None, **options):
    model = network(outputs, **options)
    model.compile("sgd", loss or Distillation(from_logits=True), metrics=["accuracy"])
    return model


def samples(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4, 4, 1)).astype("float32"), rng.integers(
        3, size=count
    )


def tell(x):
    """Return three probabilities that only these inputs have."""
    values = np.stack([x[:, 0, 0, 0], x[:, 1, 1, 0], x[:, 2, 2, 0]], -1)
    return softmax(values)


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def outputs_of(batch):
    return batch[2]["teacher"]


class Noisy(keras.utils.PyDataset):
    """Each batch is augmented when it is read."""

    def __init__(self, x, y, weights=None, **options):
        super().__init__(**options)
        self.x, self.y, self.weights = x, y, weights
        self.rng, self.epochs = np.random.default_rng(0), 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(10 * index, 10 * index + 10)
        x = self.x[rows] + self.rng.normal(size=(10, 4, 4, 1)).astype("float32")
        weights = () if self.weights is None else (self.weights[rows],)
        return x, self.y[rows], *weights

    def on_epoch_end(self):
        self.epochs += 1


# The loss


def test_the_loss_is_that_of_the_paper():
    logits = np.float32([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    teacher, y = np.float32([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), np.array([0, 1])
    weights = np.float32([1.0, 3.0])

    at = softmax(np.log(teacher) / 4.0)
    soft = (at * (np.log(at) - np.log(softmax(logits / 4.0)))).sum(-1)
    hard = -np.log(softmax(logits)[[0, 1], y])
    expected = np.mean(weights * (0.4 * hard + 0.6 * 16.0 * soft))

    loss = Distillation(0.6, 4.0, from_logits=True)
    found = loss(y, logits, pack(weights, teacher))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one_hot = loss(np.eye(3)[y], logits, pack(weights, teacher))
    np.testing.assert_allclose(one_hot, expected, rtol=1e-5)
    found = Distillation(0.6, 4.0)(y, softmax(logits), pack(weights, teacher))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("from_logits", [False, True])
def test_one_output_is_a_binary_probability(from_logits):
    logits, teacher = np.float32([[1.0], [-2.0]]), np.float32([[0.9], [0.4]])
    y = np.array([1, 0])
    p = 1 / (1 + np.exp(-logits))

    def at(odds):
        return odds**0.5 / (1 + odds**0.5)

    t, s = at(teacher / (1 - teacher)), at(p / (1 - p))
    soft = (t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s)))[:, 0]
    hard = -np.log(np.where(y == 1, p[:, 0], 1 - p[:, 0]))

    loss = Distillation(0.25, 2.0, from_logits=from_logits)
    found = loss(y, logits if from_logits else p, pack(np.ones(2), teacher))
    np.testing.assert_allclose(found, np.mean(0.75 * hard + soft), rtol=1e-4)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError()])
def test_a_regression_learns_the_values(loss):
    y, y_pred = np.float32([1.0, 2.0]), np.float32([[1.5], [1.0]])
    teacher = np.float32([[1.0], [4.0]])

    found = Distillation(0.5, 3.0, loss=loss)(y, y_pred, pack(np.ones(2), teacher))
    expected = 0.5 * (0.25 + 1.0) / 2 + 0.5 * (0.25 + 9.0) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_hard_loss_keeps_its_settings():
    y, logits = np.eye(3)[[0, 2]], np.float32([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    hard = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    loss = Distillation(0.0, loss=hard)

    assert loss.from_logits
    teacher = np.full((2, 3), 1 / 3, "float32")
    found = loss(y, logits, pack(np.ones(2), teacher))
    np.testing.assert_allclose(found, hard(y, logits), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 1.5}, r"`weight` in \[0, 1\]"),
        ({"temperature": 0.0}, "positive"),
        ({"loss": SPARSE(), "from_logits": True}, "leave it out"),
        ({"loss": 3}, r"keras\.losses\.Loss"),
    ],
)
def test_arguments_of_the_loss_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**arguments)


def test_a_saved_student_keeps_its_loss(tmp_path):
    model = student(loss=Distillation(0.3, 4.0, loss=SPARSE(from_logits=True)))
    model.save(tmp_path / "student.keras")
    loss = keras.saving.load_model(tmp_path / "student.keras").loss

    assert (loss.weight, loss.temperature, loss.from_logits) == (0.3, 4.0, True)


# The batches


def test_arrays_are_shuffled_with_their_outputs():
    x, y = samples()
    weights = np.arange(40.0)
    data = kmn.distill(
        tell, x, y, sample_weight=weights, batch_size=16, seed=1, verbose=0
    )
    orders = []
    for _ in range(2):
        batches = [data[i] for i in range(len(data))]
        order = np.concatenate([b[2]["sample_weight"] for b in batches]).astype(int)
        for batch, rows in zip(batches, np.split(order, [16, 32]), strict=True):
            np.testing.assert_array_equal(batch[0], x[rows])
            np.testing.assert_array_equal(batch[1], y[rows])
            np.testing.assert_allclose(outputs_of(batch), tell(x[rows]), rtol=1e-6)
        orders.append(order)
        data.on_epoch_end()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert list(orders[0]) != list(orders[1])


def test_outputs_of_arrays_are_computed_once():
    x, y = samples()
    calls = []

    def teacher(x):
        calls.append(len(x))
        return tell(x)

    data = kmn.distill(teacher, x, y, verbose=0)
    student().fit(data, epochs=3, verbose=0)
    assert sum(calls) == 40


@pytest.mark.parametrize("workers", [1, 4])
def test_outputs_are_those_of_the_augmented_batch(workers):
    x, y = samples()
    data = Noisy(x, y, np.arange(40.0), workers=workers)
    seen = []

    class Recording(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    distilled = kmn.distill(tell, data)
    assert distilled.workers == workers
    for index in range(4):
        batch = distilled[index]
        np.testing.assert_allclose(outputs_of(batch), tell(batch[0]), rtol=1e-6)
        np.testing.assert_array_equal(
            batch[2]["sample_weight"], np.arange(40.0)[10 * index : 10 * index + 10]
        )
    student().fit(distilled, epochs=2, verbose=0, callbacks=[Recording()])
    assert len(seen) == 8
    assert data.epochs >= 2  # Keras may read a batch before the first epoch


class FirstPixels(keras.layers.Layer):
    def build(self, _):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return keras.ops.softmax(self.scale * x[:, 0, :3, 0])


@pytest.mark.parametrize("workers", [1, 4])
def test_in_fit_a_batch_meets_its_own_outputs(workers):
    """A student that equals the teacher has no soft loss, if the batches match."""
    x, y = samples()
    model = keras.Sequential([keras.Input((4, 4, 1)), FirstPixels()])
    model.compile(keras.optimizers.SGD(0.0), Distillation(1.0, 1.0))
    teacher = keras.Sequential([keras.Input((4, 4, 1)), FirstPixels()])
    history = model.fit(
        kmn.distill(teacher, Noisy(x, y, workers=workers)), epochs=2, verbose=0
    )
    np.testing.assert_allclose(history.history["loss"], 0.0, atol=1e-5)


def test_class_weights_multiply_sample_weights():
    x, y = samples()
    weights = np.linspace(1, 2, 40)
    for labels in (y, np.eye(3)[y], y[:, None]):
        data = kmn.distill(
            tell,
            x,
            labels,
            sample_weight=weights,
            class_weight={1: 3.0},
            batch_size=40,
            shuffle=False,
            verbose=0,
        )
        expected = weights * np.where(y == 1, 3.0, 1.0)
        np.testing.assert_allclose(data[0][2]["sample_weight"], expected, rtol=1e-6)


def test_layers_augment_once_for_both():
    x, y = samples()
    noise = keras.layers.GaussianNoise(1.0)
    data = kmn.distill(tell, x, y, augmentation=[noise, lambda x: 2 * x], shuffle=False)
    batch = data[0]
    assert np.abs(batch[0] - 2 * x[:32]).mean() > 0.5
    np.testing.assert_allclose(outputs_of(batch), tell(batch[0]), rtol=1e-6)
    assert np.abs(data[0][0] - batch[0]).mean() > 0.5


def test_a_tf_dataset_stays_one():
    tf = pytest.importorskip("tensorflow")
    x, y = samples()
    noisy = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    noisy = noisy.map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))
    data = kmn.distill(tell, noisy, class_weight={0: 2.0})
    for batch_x, labels, third in data.as_numpy_iterator():
        np.testing.assert_allclose(third["teacher"], tell(batch_x), rtol=1e-5)
        np.testing.assert_array_equal(third["sample_weight"], 1.0 + (labels == 0))
    assert data.cardinality() == 3
    teacher = network(activation="softmax")
    data = kmn.distill([teacher, tell], noisy)
    student().fit(data, verbose=0, shuffle=False)


# Teachers


def test_a_mean_is_taken_of_probabilities():
    x, y = samples()
    one, other = network(name="one"), network(activation="softmax", name="other")
    one.compile("sgd", SPARSE(from_logits=True))
    data = kmn.distill([one, other, tell], x, y, shuffle=False, verbose=0)
    expected = [softmax(one.predict(x, verbose=0)), other.predict(x, verbose=0)]
    expected = np.mean([*expected, tell(x)], axis=0)
    np.testing.assert_allclose(outputs_of(data[0]), expected[:32], rtol=1e-5)


def test_a_pool_and_an_ensemble_are_teachers(tmp_path):
    x, y = samples()
    pool = kmn.LearnerPool(tmp_path / "pool")
    for name in ("one", "other"):
        pool.add(network(name=name), from_logits=True)
    expected = pool.predict(x, verbose=0)

    data = kmn.distill(pool, x, y, shuffle=False, verbose=0)
    np.testing.assert_allclose(outputs_of(data[0]), expected.mean(0)[:32], rtol=1e-5)

    ensemble = kmn.EnsemblePruner(pool, 1, method="top_k").prune(x, y, verbose=0)
    data = kmn.distill(ensemble, x, y, shuffle=False, verbose=0)
    chosen = expected[ensemble.selection_.indices[0]]
    np.testing.assert_allclose(outputs_of(data[0]), chosen[:32], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tflite", "zip", "bundle"])
def test_files_are_teachers(tmp_path, format):
    x, y = samples()
    pool = kmn.LearnerPool(tmp_path / "pool")
    pool.add(network(activation="softmax"))
    ensemble = kmn.EnsemblePruner(pool, 1, method="top_k").prune(x, y, verbose=0)
    path = tmp_path / f"teacher.{format}"
    ensemble.export(path, format, quantization=None)

    data = kmn.distill(path, x, y, shuffle=False, verbose=0)
    expected = ensemble.predict(x, verbose=0)
    np.testing.assert_allclose(outputs_of(data[0]), expected[:32], atol=1e-4)


def test_values_of_a_regression_stay_as_they_are():
    x, y = samples()
    teacher = network(1)
    teacher.compile("sgd", "mse")
    data = kmn.distill(teacher, x, y, shuffle=False, verbose=0)
    expected = teacher.predict(x, verbose=0)
    np.testing.assert_allclose(outputs_of(data[0]), expected[:32], rtol=1e-5)


def test_logits_of_one_unit_become_a_probability():
    x, y = samples()
    teacher = network(1)
    data = kmn.distill(teacher, x, y > 0, from_logits=True, shuffle=False, verbose=0)
    expected = 1 / (1 + np.exp(-teacher.predict(x, verbose=0)))
    np.testing.assert_allclose(outputs_of(data[0]), expected[:32], rtol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "error", "message"),
    [
        (lambda x: 5 * x[:, 0, :3, 0], ValueError, "from_logits=True"),
        (lambda x: tell(x)[:-1], ValueError, r"\(40, outputs\)"),
        ([], ValueError, "at least one"),
        (3, TypeError, "Received: int"),
    ],
)
def test_teachers_are_checked(teacher, error, message):
    with pytest.raises(error, match=message):
        kmn.distill(teacher, *samples(), verbose=0)


# fit


def test_a_sparse_int8_student_is_one_fit():
    x, y = samples()
    model = student()
    data = kmn.distill(tell, x, y, student=model, verbose=0)
    callbacks = [
        WeightPruning(kmn.schedules.Constant(0.5)),
        QuantizationAwareTraining(),
    ]
    history = model.fit(
        data, epochs=2, verbose=0, callbacks=callbacks, validation_data=(x, y)
    )
    assert kmn.layers.sparsity(model) == pytest.approx(0.5, abs=0.02)
    assert history.history["quantized"] == [1.0, 1.0]
    # The validation loss is that of the labels alone.
    hard = SPARSE(from_logits=True)(y, model.predict(x, verbose=0))
    np.testing.assert_allclose(history.history["val_loss"][-1], hard, rtol=1e-4)


@pytest.mark.slow
def test_every_callback_takes_distilled_data(tmp_path):
    x, y = samples()
    pool = kmn.LearnerPool(tmp_path / "pool")
    cycle = Cycle(mask=masks.Magnitude(0.5), quantize=0.0)
    data = kmn.distill(tell, x, y, verbose=0)
    for callback in (
        ChannelPruning(params=0.7, min_channels=1, data=data),
        DynamicSparseTraining(0.5, data=data),
        LearnerCheckpoint(pool),
        LearnerCycles(pool, 1, cycle, warmup=0.5),
        WeightPruning(kmn.schedules.Constant(0.5), importance="taylor", data=data),
    ):
        keras.utils.set_random_seed(0)
        logs = student().fit(data, epochs=2, verbose=0, callbacks=[callback]).history
        assert np.isfinite(logs["loss"]).all()
    assert len(pool) == 3
    assert all(learner.from_logits for learner in pool)


def test_students_side_by_side_are_each_taught():
    x, y = samples()
    weights = np.arange(40.0)
    joint = kmn.side_by_side(network, 2, seed=0)
    accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
    loss = Distillation(from_logits=True)
    joint.compile(keras.optimizers.SGD(0.0), loss, weighted_metrics=[accuracy])
    data = kmn.distill(tell, x, y, sample_weight=weights, batch_size=40, verbose=0)
    logs = joint.fit(data, verbose=0).history
    batch = data[0]
    for i, member in enumerate(joint.members):
        outputs = member.predict(batch[0], verbose=0)
        expected = loss(batch[1], outputs, batch[2])
        np.testing.assert_allclose(logs[f"member_{i + 1}_loss"], expected, rtol=1e-4)
        hits = outputs.argmax(-1) == batch[1]
        np.testing.assert_allclose(
            logs[f"member_{i + 1}_accuracy"],
            np.average(hits, weights=batch[2]["sample_weight"]),
            rtol=1e-5,
        )


def test_metrics_see_labels_and_weights():
    x, y = samples()
    weights = np.arange(40.0)
    model = network()
    accuracy = keras.metrics.SparseCategoricalAccuracy
    model.compile(
        keras.optimizers.SGD(0.0),
        Distillation(from_logits=True),
        metrics=[accuracy("plain")],
        weighted_metrics=[accuracy("weighted")],
    )
    data = kmn.distill(tell, x, y, sample_weight=weights, verbose=0)
    logs = model.fit(data, verbose=0).history
    hits = model.predict(x, verbose=0).argmax(-1) == y
    np.testing.assert_allclose(logs["plain"][0], hits.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        logs["weighted"][0], np.average(hits, weights=weights), rtol=1e-5
    )


def test_gradients_outside_of_fit_are_those_of_the_loss():
    x, y = samples()
    model = student(loss=Distillation(1.0, 1.0, from_logits=True))
    kmn.layers.prepare(model)
    x, y, third = kmn.distill(tell, x, y, batch_size=40, shuffle=False, verbose=0)[0]
    found = kmn.layers.kernel_gradients(model, x, y, third)[-1]
    features = keras.Model(model.inputs, model.layers[-2].output)
    features = features.predict(x, verbose=0)
    errors = softmax(model.predict(x, verbose=0)) - tell(x)
    np.testing.assert_allclose(found, features.T @ errors / 40, atol=1e-5)
    with pytest.raises(ValueError, match=r"distill\(teacher, x, y\)"):
        kmn.layers.kernel_gradients(model, x, y)


def test_plain_labels_cannot_be_trained_on():
    x, y = samples()
    model = student()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"distill\(teacher, x, y\)"):
        model.fit(x, y, verbose=0)
    if keras.backend.backend() == "jax":
        return  # there, Keras loses the weights of a model whose step fails
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()


def test_another_loss_is_reported_or_fails():
    x, y = samples()
    model = student(loss=SPARSE(from_logits=True))
    data = kmn.distill(tell, x, y, verbose=0)
    with pytest.raises((TypeError, ValueError)):  # Keras's words
        model.fit(data, verbose=0)
    with pytest.raises(ValueError, match=r"losses\.Distillation"):
        kmn.distill(tell, x, y, student=model, verbose=0)
    later = network()
    data = kmn.distill(tell, x, y, student=later, verbose=0)
    later.compile("sgd", SPARSE(from_logits=True))
    with pytest.raises(ValueError, match=r"losses\.Distillation"):
        later.fit(data, verbose=0)


def test_another_number_of_outputs_is_reported():
    x, y = samples()
    with pytest.raises(ValueError, match=r"\(samples, 3\)"):
        student(4).fit(kmn.distill(tell, x, y, verbose=0), verbose=0)


def test_students_are_checked():
    x, y = samples()
    flip = student(front=[keras.layers.RandomFlip()])
    with pytest.raises(ValueError, match="split_augmentation"):
        kmn.distill(tell, x, y, student=flip, verbose=0)
    with pytest.raises(ValueError, match="from_logits=False"):
        kmn.distill(tell, x, y, student=student(loss=Distillation()), verbose=0)
    same = student()
    with pytest.raises(ValueError, match="as both"):
        kmn.distill(same, x, y, student=same, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": None}, "y=None"),
        ({"y": np.zeros(3)}, "40, 3"),
        ({"x": Noisy(*samples())}, "y=None and sample_weight=None"),
        ({"x": Noisy(*samples(), use_multiprocessing=True), "y": None}, "threads"),
    ],
)
def test_data_are_checked(arguments, message):
    x, y = samples()
    with pytest.raises(ValueError, match=message):
        kmn.distill(tell, **({"x": x, "y": y, "verbose": 0} | arguments))


# Augmentation within the student


def test_augmentation_is_split_off():
    x, _ = samples()
    front = [
        keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1)]),
        keras.layers.GaussianNoise(0.5),
    ]
    model = network(front=front)
    augmentation, net = kmn.split_augmentation(model)
    np.testing.assert_allclose(
        net.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )
    to_numpy = keras.ops.convert_to_numpy
    trained = [to_numpy(net(x, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*trained)
    drawn = [to_numpy(augmentation(x, training=True)) for _ in range(2)]
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.3
    net.layers[-1].kernel.assign(0 * net.layers[-1].kernel)
    assert np.abs(model.predict(x, verbose=0)).max() > 0


@pytest.mark.parametrize(
    "front",
    [
        [],
        [keras.layers.Rescaling(2.0), keras.layers.RandomFlip()],
        [keras.layers.RandomCrop(4, 4)],
    ],
)
def test_only_random_layers_in_front_are_split_off(front):
    with pytest.raises(ValueError, match="first layers are random"):
        kmn.split_augmentation(network(front=front))
