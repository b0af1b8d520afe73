import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_micronets.edge.inputs import SkippedSample, read_arrays, read_npy
from keras_micronets.edge.inputs.npy import PIECE_SAMPLES, read_header

SHAPE = (3, 2)


def saved(*arrays):
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def stream(data):
    return io.BufferedReader(io.BytesIO(data))


def header(text, *, version=b"\x01\x00"):
    text = text.encode() + b"\n"
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + text


def described(shape, descr="<f4", order=False):
    return header(repr({"descr": descr, "fortran_order": order, "shape": shape}))


@pytest.mark.parametrize("dtype", ["uint8", ">i2", "float16", "float64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_is_read_in_parts(tmp_path, dtype, order):
    n = 2 * PIECE_SAMPLES + 3
    x = (np.arange(n * 6).reshape(n, *SHAPE) % 7).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(x, order=order))
    pieces = [*read_npy(tmp_path / "x.npy", SHAPE)]
    assert [len(piece) for piece in pieces] == [PIECE_SAMPLES, PIECE_SAMPLES, 3]
    np.testing.assert_array_equal(np.concatenate(pieces), x)


def test_one_sample_without_a_batch_and_no_sample(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(SHAPE))
    assert [x.shape for x in read_npy(tmp_path / "one.npy", SHAPE)] == [(1, *SHAPE)]
    np.save(tmp_path / "none.npy", np.ones((0, *SHAPE)))
    assert [*read_npy(tmp_path / "none.npy", SHAPE)] == []


def test_a_large_file_takes_little_memory(tmp_path):
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        file.write(described((2**26, *SHAPE)))  # 1.5 GiB, none of them on the disk
        file.truncate(file.tell() + 2**26 * 24)
    tracemalloc.start()
    try:
        pieces = read_npy(path, SHAPE)
        assert next(pieces).shape == (PIECE_SAMPLES, *SHAPE)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


HOSTILE = {
    "empty": b"",
    "text": b"1,2,3\n",
    "archive": b"PK\x03\x04 and no more",
    "magic alone": b"\x93NUMPY",
    "unknown version": header("{}", version=b"\x09\x00"),
    "no dictionary": header("[]"),
    "too long": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "nested": header("(" * 5000),
    "code": header("__import__('os').getpid()"),
    "objects": described((1, *SHAPE), "|O"),
    "texts": described((1, *SHAPE), "<U1000000"),
    "complex": described((1, *SHAPE), "<c16"),
    "records": described((1, *SHAPE), [("a", "<f4")]),
    "no dtype": described((1, *SHAPE), "what"),
    "huge": described((2**62, *SHAPE)),
    "beyond 64 bits": described((2**64 + 1, *SHAPE)),
    "negative": described((-1, *SHAPE)),
    "cut short": saved(np.ones((2, *SHAPE)))[:-1],
    "another shape": saved(np.ones((4, 2, 3))),
    "a number": saved(np.float32(1)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"Expected a \.npy file.*x\.npy"):
        [*read_npy(tmp_path / "x.npy", SHAPE)]


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"empty"}))
def test_hostile_streams_end(name):
    good = np.ones((2, *SHAPE))
    received = []
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):  # noqa: PT011
            received.extend(
                x for x in read_arrays(stream(saved(good) + HOSTILE[name]), SHAPE)
            )
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=80))
def test_headers_of_any_bytes(data):
    for begin in (b"\x93NUMPY\x01\x00\x40\x00", b"\x93NUMPY\x02\x00\x40\x00\x00\x00"):
        with pytest.raises(ValueError):  # noqa: PT011
            read_header(stream(begin + data))


def test_consecutive_arrays():
    arrays = [np.full((2, *SHAPE), 1, "uint8"), np.ones((0, *SHAPE)), np.ones(SHAPE)]
    samples = [*read_arrays(stream(saved(*arrays)), SHAPE)]
    assert [x.dtype for x in samples] == ["uint8", "uint8", "float64"]
    assert all(x.shape == (1, *SHAPE) for x in samples)


def test_samples_before_the_damage_are_yielded():
    data = saved(np.ones((2, *SHAPE)), np.ones((3, *SHAPE)))[:-1]
    samples = read_arrays(stream(data), SHAPE)
    for _ in range(4):
        assert next(samples).shape == (1, *SHAPE)
    with pytest.raises(ValueError, match="incomplete: 47 bytes of 48"):
        next(samples)


def test_a_sample_that_is_not_finite_is_skipped():
    x = np.ones((3, *SHAPE))
    x[1, 0, 0] = np.nan
    first, second, third = read_arrays(stream(saved(x)), SHAPE)
    assert isinstance(second, SkippedSample)
    assert second.message.startswith("sample 1: Expected finite numbers")
    assert first.shape == third.shape == (1, *SHAPE)


def test_samples_of_a_file_that_are_not_finite_are_skipped(tmp_path):
    n = PIECE_SAMPLES + 6
    x = np.arange(n * 6, dtype="float64").reshape(n, *SHAPE)
    bad = [0, 4, 5, PIECE_SAMPLES + 1, n - 1]
    x[bad, 1, 0] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    np.save(tmp_path / "x.npy", x)
    items = [*read_npy(tmp_path / "x.npy", SHAPE)]
    skipped = [item for item in items if isinstance(item, SkippedSample)]
    assert [int(item.message.split(":")[0].split()[1]) for item in skipped] == bad
    assert {item.n_samples for item in skipped} == {1}
    parts = [item for item in items if isinstance(item, np.ndarray)]
    np.testing.assert_array_equal(np.concatenate(parts), np.delete(x, bad, axis=0))


def test_fortran_order_in_a_stream():
    x = np.asfortranarray(np.arange(12).reshape(2, *SHAPE))
    with pytest.raises(ValueError, match="ascontiguousarray"):
        next(read_arrays(stream(saved(x)), SHAPE))
