"""Labels of any values, and data of any form, against arrays with labels from 0."""

import weakref

import keras
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

import keras_micronets as kmn
from keras_micronets.learners.inputs import chunks, is_stream
from keras_micronets.learners.labels import encode

L = keras.layers
X, Y = load_iris(return_X_y=True)
X = X.astype("float32")
NAMES = np.array(["setosa", "versicolor", "virginica"])


def classifiers(y, x=X):
    return [LogisticRegression(C=c, max_iter=500).fit(x, y) for c in (0.1, 1, 10)]


def pruned(learners, x, y, **options):
    ensemble = kmn.EnsemblePruner(
        learners, min(2, len(learners)), method="top_k", **options
    )
    return ensemble.prune(x, y, verbose=0)


@pytest.mark.parametrize(
    "labels", [NAMES, np.array([1, 2, 3]), np.array([-1, 7, 40]), NAMES[::-1]]
)
def test_labels_of_any_value(labels):
    """Accuracies and probabilities do not depend on the values of the labels."""
    expected = pruned(classifiers(Y), X, Y)
    ensemble = pruned(classifiers(labels[Y]), X, labels[Y])
    order = np.argsort(np.argsort(labels))
    for row, other in zip(expected.report_.rows, ensemble.report_.rows, strict=True):
        assert row.accuracy == pytest.approx(other.accuracy)
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0)[:, order],
        expected.predict(X, verbose=0),
        atol=5e-3,
    )
    assert ensemble.class_names == [str(label) for label in np.sort(labels).tolist()]


def test_missing_classes_have_probability_zero():
    some = LogisticRegression(max_iter=500).fit(X[Y != 0], Y[Y != 0])
    learners = [*classifiers(Y), some]
    with pytest.warns(UserWarning, match="without"):
        adapted = kmn.EnsemblePruner(learners, 2)
    p = adapted.learners.predict(X, verbose=0)
    assert p.shape == (4, 150, 3)
    np.testing.assert_array_equal(p[3, :, 0], 0)
    np.testing.assert_allclose(p[3, :, 1:], learners[3].predict_proba(X), atol=1e-6)


def test_classes_that_cannot_be_aligned():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    pruned([*classifiers(Y), model], X, Y)  # integers from 0 are indices
    with pytest.raises(ValueError, match=model.name):
        kmn.EnsemblePruner([*classifiers(Y + 1), model], 2)
    with pytest.raises(ValueError, match="can be compared"):
        kmn.EnsemblePruner([*classifiers(Y), *classifiers(NAMES[Y])], 2)
    with pytest.raises(ValueError, match="out of the classes"):
        pruned(classifiers(Y + 1), X, Y)


def test_names_of_the_classes_of_keras_models(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    names = ["virginica", "setosa", "versicolor"]
    ensemble = pruned([model], X, NAMES[Y], class_names=names)
    index = np.array([1, 2, 0])[Y]
    assert ensemble.report_.rows[0].accuracy == pytest.approx(
        np.mean(model.predict(X, verbose=0).argmax(1) == index)
    )
    by_name, by_index = (X, NAMES[Y]), (X, index)
    manifests = []
    for data in (by_name, by_index):
        ensemble.export(
            tmp_path / "bundle",
            representative_data=X,
            evaluation_data=data,
            early_exit_data=data,
            temperature_data=data,
        )
        manifests.append(kmn.edge.Manifest.read(tmp_path / "bundle"))
    assert manifests[0] == manifests[1]
    assert [*manifests[0].class_names] == names
    with pytest.raises(ValueError, match="class_names"):
        pruned([model], X, NAMES[Y])


def test_signs_are_the_classes_of_one_unit():
    signs = np.where(Y == 0, -1, 1)
    np.testing.assert_array_equal(encode(signs, None, "binary"), Y != 0)
    np.testing.assert_array_equal(encode(Y, None, "multiclass"), Y)


def test_several_labels_of_scikit_learn():
    y = np.stack([Y == 0, Y == 1], axis=1).astype(int)
    learner = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, y)
    ensemble = pruned([learner], X, y, temperature=None)
    assert ensemble.task_ == "multilabel"
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0),
        np.stack([columns[:, 1] for columns in learner.predict_proba(X)], axis=1),
        atol=1e-6,
    )


def test_regressors_of_scikit_learn():
    y = X[:, 3]
    learners = [LinearRegression().fit(X[:, :3], y + i) for i in range(3)]
    ensemble = pruned(learners, X[:, :3], y)
    assert ensemble.task_ == "regression"
    np.testing.assert_array_equal(ensemble.selection_.indices, [0, 1])


@pytest.mark.parametrize("method", ["top_k", "greedy", "cluster_then_forward"])
def test_integer_weights_are_repeated_samples(method):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), (6, 80))
    y, weights = rng.integers(0, 3, 80), rng.integers(0, 4, 80)
    repeated = np.repeat(np.arange(80), weights)
    targets = kmn.selection.Targets(y, sample_weight=weights)
    choose = kmn.selection.as_method(method)
    if method == "cluster_then_forward":  # folds differ; the scores must not
        _, checked = targets.check(p)
        _, other = kmn.selection.Targets(y[repeated]).check(p[:, repeated])
        for one in p:
            assert checked.mean_loss(one) == pytest.approx(
                other.mean_loss(one[repeated])
            )
        choose(p, targets, 3, random_state=0)
        return
    weighted = choose(p, targets, 3)
    plain = choose(p[:, repeated], y[repeated], 3)
    np.testing.assert_array_equal(weighted.indices, plain.indices)
    np.testing.assert_allclose(weighted.weights, plain.weights)


def test_methods_that_count_samples_take_no_weights():
    p = np.random.default_rng(0).dirichlet(np.ones(3), (4, 30))
    targets = kmn.selection.Targets(np.zeros(30), sample_weight=np.arange(30))
    for method in ("epic", "complementariness", "reduced_error"):
        with pytest.raises(ValueError, match="sample weights"):
            kmn.selection.as_method(method)(p, targets, 2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    pool = kmn.LearnerPool(tmp_path_factory.mktemp("data") / "pool")
    checkpoint = kmn.callbacks.LearnerCheckpoint(pool)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[checkpoint])
    return pool


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        rows = slice(30 * i, 30 * i + 30)
        return X[rows], Y[rows]


def generator(*, weights=False):
    for i in range(0, 150, 40):
        batch = X[i : i + 40], Y[i : i + 40]
        yield (*batch, np.ones(len(batch[0]))) if weights else batch


def loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(data, batch_size=64)


def tf_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)


@pytest.mark.parametrize(
    "make", [Batches, generator, lambda: generator(weights=True), loader, tf_dataset]
)
def test_streams_are_read_once(pool, make):
    expected = pruned(pool, X, Y)
    ensemble = pruned(pool, make(), None)
    assert str(ensemble.report_) == str(expected.report_)
    np.testing.assert_allclose(
        pool.predict(make(), verbose=0), pool.predict(X, verbose=0), atol=1e-6
    )


def test_streams_are_read_in_chunks(monkeypatch, pool):
    from keras_micronets.learners import inputs

    monkeypatch.setattr(inputs, "CHUNK_BYTES", 1000)
    parts = [len(x) for x, _, _ in chunks(Batches())]
    assert parts == [90, 60]
    assert str(pruned(pool, Batches(), None).report_) == str(pruned(pool, X, Y).report_)


def test_inputs_of_a_stream_are_never_held_together(monkeypatch, pool):
    from keras_micronets.learners import inputs

    batches, joined = [], []
    # JAX keeps the array that it computed on last.
    n_kept = int(keras.backend.backend() == "jax")

    def alive(references):
        return sum(reference() is not None for reference in references)

    def stream():
        for start in range(0, 150, 10):
            x = X[start : start + 10].copy()
            batches.append(weakref.ref(x))
            assert alive(batches) <= 4  # of a chunk, and the generator's own
            assert alive(joined) <= n_kept  # the last one is gone
            yield x, Y[start : start + 10]

    def join(parts):
        chunk = join_batches(parts)
        joined.append(weakref.ref(chunk[0]))
        return chunk

    join_batches = inputs._joined
    monkeypatch.setattr(inputs, "_joined", join)
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 3 * 10 * 4 * 4)
    assert str(pruned(pool, stream(), None).report_) == str(pruned(pool, X, Y).report_)
    assert (len(batches), len(joined)) == (15, 5)


def test_infinite_and_incomplete_streams(pool):
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match="ends"):
        pruned(pool, tf_dataset().repeat(), None)
    with pytest.raises(ValueError, match="batches without targets"):
        pruned(pool, tf.data.Dataset.from_tensor_slices(X).batch(10), None)
    with pytest.raises(ValueError, match="y=None and sample_weight=None"):
        pruned(pool, tf_dataset(), Y)
    with pytest.raises(ValueError, match="Expected targets"):
        pruned(pool, X, None)
    assert not is_stream(X)


TEXTS = [f"flower {NAMES[y]} {i % 7} {'red' * (i % 4)}" for i, y in enumerate(Y)]
FORMS = {
    "frame": lambda: frame(),
    "series": lambda: frame(TEXTS)[0],
    "texts": lambda: TEXTS,
    "array of texts": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, object),
    "csr": lambda: sparse_texts(),
    "csc": lambda: sparse_texts().tocsc(),
    "coo": lambda: sparse_texts().tocoo(),
    "texts and frame": lambda: {"text": TEXTS, "size": frame()},
    "two frames": lambda: (frame(), frame()),
}


def frame(values=X):
    pandas = pytest.importorskip("pandas")
    columns = [*"abcd"] if values is X else None
    return pandas.DataFrame(values, columns=columns)


def sparse_texts():
    return TfidfVectorizer().fit_transform(TEXTS)


class Recorder:
    """Scores of each row by itself; remembers what it was given."""

    classes_ = np.array(["setosa", "versicolor", "virginica"])

    def __init__(self, seed):
        self.seed, self.given = seed, []

    def predict_proba(self, x):
        self.given.append(x)
        one = x["size"] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
        rows = one.toarray() if hasattr(one, "toarray") else np.asarray(one)
        if rows.dtype.kind in "OUT":
            rows = np.array([[*text.ljust(40).encode()] for text in rows.tolist()]) / 99
        rng = np.random.default_rng(self.seed)
        logits = rows @ rng.normal(size=(rows.shape[1], 3)) / np.sqrt(rows.shape[1])
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("form", FORMS)
def test_what_keras_does_not_take_reaches_learners_as_it_is(form, tmp_path):
    x, labels = FORMS[form](), NAMES[Y]
    learners = [Recorder(seed) for seed in range(3)]
    ensemble = pruned(learners, x, labels, combination="mean", temperature=None)
    members = [learners[i] for i in ensemble.selection_.indices]
    expected = np.mean([one.predict_proba(x) for one in members], axis=0)
    for one in members:
        one.given.clear()

    predicted = ensemble.predict(x, 64, verbose=0)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    for one in members:
        assert [n_rows(part) for part in one.given] == [64, 64, 22]
        assert {type(part) for part in one.given} == {type(members[0].given[0])}
        assert_same_form(one.given[0], x)

    for y in (np.eye(3)[Y], labels):
        ensemble.compile(metrics=["accuracy"])
        scores = ensemble.evaluate(x, y, verbose=0, return_dict=True)
        loss = -np.log(expected[np.arange(150), Y]).mean()
        assert scores["loss"] == pytest.approx(loss, rel=1e-5)
        right = (expected.argmax(axis=1) == Y).mean()
        assert scores["accuracy"] == pytest.approx(right)
        both = ensemble.evaluate(x, y, verbose=0)
        assert both == [scores["loss"], scores["accuracy"]]
    weights = np.arange(150.0)
    weighted = ensemble.evaluate(x, labels, 50, 0, weights)[0]
    losses = -np.log(expected[np.arange(150), Y])
    assert weighted == pytest.approx(losses @ weights / 150, rel=1e-5)
    assert ensemble.spread(x).shape == (150, 3)
    if form == "frame":
        path = ensemble.write_report(tmp_path / "report.html", x, labels)
        assert path.stat().st_size > 10_000


def n_rows(x):
    one = x["size"] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
    return one.shape[0] if hasattr(one, "shape") else len(one)


def assert_same_form(part, x):
    if hasattr(x, "tocsr"):
        assert (part != x.tocsr()[:64]).nnz == 0
        return
    assert type(part) is type(x)
    if isinstance(x, dict | tuple):
        assert len(part) == len(x)
        names = x if isinstance(x, dict) else range(len(x))
        for name in names:
            assert_same_form(part[name], x[name])
        return
    np.testing.assert_array_equal(np.asarray(part), np.asarray(x)[:64])
    if hasattr(x, "columns"):
        assert [*part.columns] == [*x.columns]


def test_frames_of_keras_models_and_others_together():
    keras_model = keras.Sequential(
        [keras.Input((4,)), L.Dense(3, activation="softmax")]
    )
    other = LogisticRegression(max_iter=500).fit(frame(), Y)
    ensemble = pruned([keras_model, other], frame(), Y, temperature=None)
    expected = (keras_model.predict(X, verbose=0) + other.predict_proba(frame())) / 2
    np.testing.assert_allclose(
        ensemble.predict(frame(), verbose=0), expected, atol=1e-6
    )


def test_evaluation_of_numbers_on_every_backend():
    y = X[:, 3:]
    learners = [LinearRegression().fit(X[:, :3], y[:, 0] + i) for i in range(2)]
    ensemble = pruned(learners, X[:, :3], y[:, 0])
    ensemble.compile(metrics=["mae"])
    error = ensemble.predict(X[:, :3], verbose=0) - y
    loss, mae = ensemble.evaluate(X[:, :3], y, verbose=0)
    assert loss == pytest.approx(np.mean(error**2), rel=1e-5)
    assert mae == pytest.approx(np.abs(error).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="at least one sample"):
        ensemble.predict(frame()[:0])
    unfinished = kmn.EnsemblePruner(learners, 2)
    with pytest.raises(ValueError, match="prune"):
        unfinished.predict(X)


def test_frames_and_texts_in_pipelines():
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import StandardScaler

    columns = ColumnTransformer([("scaled", StandardScaler(), ["a", "b"])])
    scaled = [
        make_pipeline(columns, LogisticRegression(C=c)).fit(frame(), Y)
        for c in (0.1, 1)
    ]
    read = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, Y)
    for learners, x in ((scaled, frame()), ([read], TEXTS)):
        ensemble = pruned(learners, x, Y, temperature=None)
        members = [learners[i] for i in ensemble.selection_.indices]
        expected = np.mean([one.predict_proba(x) for one in members], axis=0)
        np.testing.assert_allclose(ensemble.predict(x, verbose=0), expected, atol=1e-6)


def two_inputs():
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    hidden = L.Concatenate()([L.Dense(4)(a), L.Dense(4)(b)])
    model = keras.Model([a, b], L.Dense(3, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("as_dict", [True, False])
def test_several_inputs(tmp_path, as_dict):
    data = {"a": X[:, :2], "b": X[:, 2:]} if as_dict else [X[:, :2], X[:, 2:]]
    model = two_inputs()
    pool = kmn.LearnerPool(tmp_path / "pool")
    checkpoint = kmn.callbacks.LearnerCheckpoint(pool)
    model.fit(data, Y, epochs=2, verbose=0, callbacks=[checkpoint])
    ensemble = pruned(pool, data, Y)
    expected = ensemble.predict(data, verbose=0)
    kept = pool.predict(data, verbose=0)[ensemble.selection_.indices]
    np.testing.assert_allclose(expected, kept.mean(axis=0), atol=1e-6)
    model.fit(data, Y, epochs=1, verbose=0)
    cached = pool.predict(data, verbose=0)
    np.testing.assert_array_equal(cached[ensemble.selection_.indices], kept)


def test_one_of_several_outputs(tmp_path):
    x = keras.Input((4,))
    hidden = L.Dense(8, activation="relu")(x)
    outputs = {
        "species": L.Dense(3, activation="softmax", name="species")(hidden),
        "width": L.Dense(1, name="width")(hidden),
    }
    model = keras.Model(x, outputs)
    model.compile(
        "adam", {"species": "sparse_categorical_crossentropy", "width": "mse"}
    )
    targets = {"species": Y, "width": X[:, 3]}
    pools = {}
    for name in outputs:
        pools[name] = kmn.LearnerPool(tmp_path / name)
        checkpoint = kmn.callbacks.LearnerCheckpoint(pools[name], output=name)
        model.fit(X, targets, epochs=1, verbose=0, callbacks=[checkpoint])
        expected = model.predict(X, verbose=0)[name]
        np.testing.assert_allclose(
            pools[name].predict(X, verbose=0)[0], expected, atol=1e-6
        )
    assert [pool[0].task for pool in pools.values()] == ["multiclass", "regression"]
    with pytest.raises(ValueError, match="as `output`"):
        pools["width"].add(model)
    with pytest.raises(ValueError, match="one of the outputs"):
        pools["width"].add(model, output="height")


@pytest.mark.parametrize("shape", [(7, 5), (7, 4, 1), (7, 4, 2)])
def test_inputs_of_another_shape_are_told_before_keras_is_asked(pool, shape):
    with pytest.raises(ValueError, match=r"inputs of shape \(samples, 4\)"):
        pool.predict(np.zeros(shape, "float32"), verbose=0)
