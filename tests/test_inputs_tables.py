import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_micronets.edge.inputs import SkippedSample, read_lines, read_table

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def table(text, shape, **options):
    return [*read_table(text.splitlines(keepends=True), shape, **options)]


def written(rows, delimiter=","):
    return "".join(delimiter.join(map(repr, row)) + "\n" for row in rows)


def slow_windows(rows, steps, hop):
    """Compute the windows by their definition."""
    windows, start = [], 0
    while start + steps <= len(rows):
        windows.append([rows[start + i] for i in range(steps)])
        start += hop
    return windows


@given(
    steps=st.integers(1, 5),
    channels=st.integers(1, 3),
    n_rows=st.integers(0, 20),
    hop=st.none() | st.integers(1, 8),
    header=st.booleans(),
    delimiter=st.sampled_from(",;\t|"),
    data=st.data(),
)
def test_windows_match_a_reference(
    steps, channels, n_rows, hop, header, delimiter, data
):
    row = st.lists(FLOATS, min_size=channels, max_size=channels)
    rows = data.draw(st.lists(row, min_size=n_rows, max_size=n_rows))
    text = delimiter.join("xyz"[:channels]) + "\n" if header else ""
    items = table(
        text + written(rows, delimiter),
        (steps, channels),
        hop=hop,
        delimiter=delimiter,
    )
    expected = slow_windows(rows, steps, hop or steps)
    samples = [item for item in items if isinstance(item, np.ndarray)]
    assert len(samples) == len(expected)
    for sample, window in zip(samples, expected, strict=True):
        assert (sample.dtype, sample.shape) == ("float32", (1, steps, channels))
        np.testing.assert_array_equal(sample[0], np.float32(window))
    used = max(0, (len(expected) - 1) * (hop or steps) + steps) if expected else 0
    start = len(expected) * (hop or steps)
    rest = len(rows) - max(used, start)
    notes = [item.message for item in items[len(samples) :]]
    assert [note.split()[0] for note in notes] == ([str(rest)] if rest > 0 else [])


def test_a_row_or_a_column_of_features():
    (row,) = table("1,2,3\n", (3,))
    (column,) = table("x\n1\n2\n3\n", (3,))
    np.testing.assert_array_equal(row, [[1, 2, 3]])
    np.testing.assert_array_equal(column, row)
    assert [x.tolist() for x in table("4\n5\n", (1,))] == [[[4]], [[5]]]


def test_further_dimensions_of_one():
    (window,) = table("1,2\n3,4\n", (1, 2, 2, 1))
    np.testing.assert_array_equal(window.reshape(2, 2), [[1, 2], [3, 4]])
    assert window.shape == (1, 1, 2, 2, 1)


def test_spreadsheet_formats():
    text = '\ufeff"time, s","x"\r\n"1", 2\r\n\r\n,\r\n3,"4"\r\n'
    lines = read_lines(io.BytesIO(text.encode()))
    (window,) = read_table(lines, (2, 2))
    np.testing.assert_array_equal(window[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,b", "line 4: Expected finite numbers. Received: 'b'"),
        ("1,", "Received: ''"),
        ("nan,1", "Received: 'nan'"),
        ("1e39,1", "Received: '1e39'"),
        ("1,2,3", "Expected 2 columns. Received: 3"),
        ("1", "Expected 2 columns. Received: 1"),
        ("x,y", "Received: 'x'"),
        ('"1,2', "Expected 2 columns. Received: 1"),
        ("1" * 200_000 + ",2", "line 4: field larger than field limit"),
        ("\x00,1", r"Received: '\x00'"),
    ],
)
def test_a_window_never_spans_a_bad_row(row, message):
    first, problem, second = table(f"1,1\n2,2\n3,3\n{row}\n4,4\n5,5\n", (2, 2))
    assert isinstance(problem, SkippedSample)
    assert message in problem.message
    assert problem.is_error
    np.testing.assert_array_equal(first[0], [[1, 1], [2, 2]])
    np.testing.assert_array_equal(second[0], [[4, 4], [5, 5]])


def test_a_line_without_an_end_takes_little_memory():
    file = io.BytesIO(b"1" * (3 * 2**20))
    assert max(map(len, read_lines(file))) == 2**20


def test_a_window_is_yielded_with_its_last_row():
    read = []

    def lines():
        for number in range(4):
            read.append(number)
            yield f"{number}\n"

    windows = read_table(lines(), (2, 1))
    next(windows)
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 8, 3), {}, "model for tables"),
        ((), {}, "model for tables"),
        ((4, 2), {"hop": 0}, "hop of at least one row"),
        ((4, 2), {"delimiter": ""}, "delimiter of one character"),
        ((4, 2), {"delimiter": "\n"}, "delimiter of one character"),
    ],
)
def test_bad_shapes_and_options(shape, options, message):
    with pytest.raises(ValueError, match=message):
        table("1,2\n", shape, **options)
