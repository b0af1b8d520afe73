import keras
import numpy as np
import pytest
from backends import BACKEND

from keras_micronets.export import representative_data
from keras_micronets.export.representative_data import read_samples

X = np.arange(60, dtype="float32").reshape(20, 3)
Z = np.arange(100, dtype="float32").reshape(20, 5)
Y = np.arange(20)


def one_input():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def two_inputs(container=list):
    tensors = {
        "wide": keras.Input((5,), name="wide"),
        "small": keras.Input((3,), name="small"),
    }
    joined = keras.layers.Concatenate()(list(tensors.values()))
    inputs = tensors if container is dict else list(tensors.values())
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(5 * index, 5 * index + 5)
        return X[rows], Y[rows]


def batched(*arrays, size=5):
    """Return batches; a plain list of them."""
    starts = range(0, len(arrays[0]), size)
    return [tuple(a[i : i + size] for a in arrays) for i in starts]


def dataset(arrays, size=None):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(arrays)
    return data if size is None else data.batch(size)


ONE = {
    "array": lambda: X,
    "tensor": lambda: keras.ops.convert_to_tensor(X),
    "doubles": lambda: X.astype("float64"),
    "pair of arrays": lambda: (X, Y),
    "batches": lambda: [x for (x,) in batched(X)],
    "one batch": lambda: [X],
    "pairs": lambda: batched(X, Y),
    "pairs in lists": lambda: [list(pair) for pair in batched(X, Y)],
    "triples": lambda: batched(X, Y, Y),
    "samples": lambda: list(X),
    "generator": lambda: (pair for pair in batched(X, Y)),
    "uneven": lambda: batched(X, Y, size=7),
    "dataset": lambda: dataset(X),
    "dataset of batches": lambda: dataset(X, 7),
    "dataset of pairs": lambda: dataset((X, Y), 7),
    "dataset of samples and labels": lambda: dataset((X, Y)),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("case", ONE)
def test_one_input(case):
    (samples,) = read_samples(ONE[case](), one_input())
    assert samples.dtype == "float32"
    np.testing.assert_array_equal(samples, X)


NAMED = {"wide": Z, "small": X}
TWO = {
    "tuple": lambda: (Z, X),
    "list": lambda: [Z, X],
    "dictionary": lambda: {**NAMED, "weight": Y},
    "pair of a tuple": lambda: ((Z, X), Y),
    "pair of a dictionary": lambda: (NAMED, Y),
    "batches": lambda: batched(Z, X),
    "two batches": lambda: batched(Z, X, size=10),
    "batches of pairs": lambda: [((z, x), y) for z, x, y in batched(Z, X, Y)],
    "dataset of dictionaries": lambda: dataset(NAMED, 7),
    "dataset of dictionaries and labels": lambda: dataset((NAMED, Y)),
}


@pytest.mark.parametrize("case", TWO)
def test_two_inputs(case):
    wide, small = read_samples(TWO[case](), two_inputs())
    np.testing.assert_array_equal(wide, Z)
    np.testing.assert_array_equal(small, X)


@pytest.mark.parametrize("case", [case for case in TWO if "dictionar" in case])
def test_two_inputs_of_a_dictionary_come_in_the_order_of_the_model(case):
    model = two_inputs(dict)
    assert [tensor.name for tensor in model.inputs] == ["small", "wide"]
    small, wide = read_samples(TWO[case](), model)
    np.testing.assert_array_equal(wide, Z)
    np.testing.assert_array_equal(small, X)


def test_none():
    assert read_samples(None, one_input()) is None


def test_integer_inputs_keep_their_type():
    model = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Flatten()])
    assert read_samples(X, model)[0].dtype == "int32"


def test_endless_batches_are_read_in_part(monkeypatch):
    monkeypatch.setattr(representative_data, "MAX_SAMPLES", 13)
    endless = (X[:5] for _ in iter(int, 1))
    assert read_samples(endless, one_input())[0].shape == (13, 3)
    assert len(read_samples(X, one_input())[0]) == 20


def broken(value):
    x = X.copy()
    x[2, 1] = value
    return x


BAD = {
    "nothing": (lambda: [], r"\(samples, 3\)\. Received: shape \(0, 3\)"),
    "no samples": (lambda: X[:0], r"Received: shape \(0, 3\)"),
    "one sample": (lambda: X[0], r"Received: shape \(3,\)"),
    "other samples": (lambda: [Z[:5], Z[5:]], r"Received: shape \(10?, 5\)|\(20, 5\)"),
    "NaN": (lambda: broken(np.nan), "Expected finite representative data"),
    "infinity in a batch": (lambda: [broken(np.inf)], "Expected finite"),
    "a number": (lambda: 3, r"iterable of batches\. Received: 3"),
    "other names": (lambda: NAMED, "0 matching arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        read_samples(make(), one_input())


BAD_TWO = {
    "one array": (lambda: X, "1 matching arrays"),
    "names": (lambda: {"wide": Z, "large": X}, "1 matching arrays"),
    "lengths": (lambda: (Z, X[:19]), r"Received: \[20, 19\]"),
    "order": (lambda: (X, Z), r"\(samples, 5\)\. Received: shape \(20, 3\)"),
}


@pytest.mark.parametrize("case", BAD_TWO)
def test_bad_data_for_two_inputs(case):
    make, message = BAD_TWO[case]
    with pytest.raises(ValueError, match=message):
        read_samples(make(), two_inputs())


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's own batches")
def test_data_loader():
    import torch

    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=6)
    np.testing.assert_array_equal(read_samples(loader, one_input())[0], X)
