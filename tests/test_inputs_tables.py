import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_micronets.edge.inputs import (
    SkippedSample,
    TableFormat,
    TimedArray,
    read_lines,
    read_table,
)

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def table(text, shape, *, hop=None, **options):
    lines = text.splitlines(keepends=True)
    return [*read_table(lines, shape, table_format=TableFormat(**options), hop=hop)]


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
    n_rows=st.integers(1, 20),
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


LOGGER = """\
# Logger 7
time;ax;note;ay
s;m/s²;;1/min
# started
2024-05-01 12:00:00;1,5;ok;-2
2024-05-01 12:00:01;+,25;ok;3e1

2024-05-01 12:00:02;x;ok;5
2024-05-01 12:00:03;7;;8
12:00:04;9;\x1b[1m;10
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("columns", "time"), [(("ay", "ax"), "time"), ((3, 1), 0), (("3", "ax"), "0")]
)
def test_files_of_loggers(encoding, end, columns, time):
    file = io.BytesIO(LOGGER.replace("\n", end).encode(encoding))
    layout = TableFormat(columns=columns, time=time, decimal=",")
    first, error, second = read_table(read_lines(file), (2, 2), table_format=layout)
    assert isinstance(first, TimedArray)
    assert first.time == "2024-05-01 12:00:01"
    np.testing.assert_array_equal(first.values, [[[-2, 1.5], [30, 0.25]]])
    assert error.message == "line 8: Expected finite numbers. Received: 'x'."
    assert second.time == "12:00:04"
    np.testing.assert_array_equal(second.values, [[[8, 7], [10, 9]]])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lines_of_utf_16_end_where_they_do(encoding):
    # These letters have the byte of a line's end in their upper or lower half.
    lines = ["\ufeff\u010aa\u0a01,\u0a0a\n", "1,2\r\n", "3,4"]
    file = io.BytesIO("".join(lines).encode(encoding))
    read = read_lines(file)
    assert next(read) == lines[0][1:]
    assert file.tell() == len(lines[0].encode(encoding))  # no byte of the next line
    assert [*read] == lines[1:]


def test_time_stamps_without_a_choice_of_columns():
    first, second = table("12:00,1,2\n\x1b[1m,3,4,\n", (1, 2), time=0)
    np.testing.assert_array_equal(
        [first.values, second.values], [[[[1, 2]]], [[[3, 4]]]]
    )
    assert (first.time, second.time) == ("12:00", "\\x1b[1m")


def test_time_stamps_in_the_last_column():
    problem, x = table("1,12:00\n1,2,3,12:01\n", (3,), time=3)
    assert "Expected 4 columns. Received: 2" in problem.message
    assert (x.values.tolist(), x.time) == ([[1, 2, 3]], "12:01")


def test_names_in_a_comment_and_after_other_text():
    for start in ("# b,a\n", "Logger\nb,a\n", "Logger\nby us\nv1\nb,a\n"):
        (row,) = table(f"{start}1,2\n", (2,), columns=["a", "b"])
        np.testing.assert_array_equal(row, [[2, 1]])


def test_any_number_of_spaces():
    (window,) = table("  x   y\n 1   2\n3\t 4  \n", (2, 2), delimiter=" ")
    np.testing.assert_array_equal(window[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("1;2", {}, "Expected 2 columns. Received: 1; perhaps --delimiter ';'."),
        ("1\t2", {}, r"Received: 1; perhaps --delimiter '\t'."),
        ("1  2", {}, "Received: 1; perhaps --delimiter ' '."),
        ("1.5;2", {"decimal": ","}, "Received: '1.5'; perhaps --decimal '.'."),
        ("1,5;2,5", {}, "perhaps --delimiter ';' --decimal ','."),
        ("12:00;1,5;2,5", {}, "perhaps --time 0 --delimiter ';' --decimal ','."),
        ("1,5;2", {"delimiter": ";"}, "Received: '1,5'; perhaps --decimal ','."),
        ("1", {}, "Received: 1; see --columns, --time, --skip, --delimiter and --d"),
        ("1,2,3,4", {}, "Expected 2 columns. Received: 4; see --columns"),
        ("12:00,2,3", {}, "Expected 2 columns. Received: 3; perhaps --time 0."),
        ("Logger 7,7", {}, "Received: 'Logger 7'; see --columns"),
        ("1,2,3", {"columns": [0, 3]}, "Expected 4 columns. Received: 3; see --col"),
        ("1_0,2", {}, "Received: '1_0'"),
    ],
)
def test_a_first_row_that_cannot_be_read_is_an_error(row, options, message):
    mark = options.get("delimiter", ";" if "decimal" in options else ",")
    width = 4 if "columns" in options else 2
    text = f"{row}\n{mark.join('1234'[:width])}\n"
    problem, window = table(text, (1, 2), **options)
    assert problem.is_error
    assert message in problem.message
    assert problem.message.startswith("line 1: ")
    assert window[0].tolist() == [[1, 4 if width == 4 else 2]]


def test_a_column_that_holds_several():
    (problem,) = table("1;2;3\n", (3,))
    assert "Received: '1;2;3'; perhaps --delimiter ';'." in problem.message


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "rows of numbers; check --skip.*Received: 0 lines"),
        ("x,y\n# 1,2\n\n", {}, "Received: 3 lines, none with numbers"),
        ("1,2\n", {"skip": 1}, "Received: 1 lines"),
        ("1,2\n", {"columns": ["x", "y"]}, r"names \['x', 'y'\] once.*Received: none"),
        ("x,z\n1,2\n", {"columns": ["x", "y"]}, r"Received: \['x', 'z'\]"),
        ("x,x\n1,2\n", {"columns": ["x", 1]}, r"Received: \['x', 'x'\]"),
        ("x,y\n1,2\n", {"columns": ["x"]}, "Expected 2 --columns.* Received: 1"),
        ("x,y\n1,2\n", {"time": 3}, "Expected --time up to 2. Received: 3"),
        ("x,y\n1,2\n", {"time": "t"}, r"--skip, set --delimiter, or give indices"),
    ],
)
def test_tables_without_the_right_rows_or_columns(text, options, message):
    with pytest.raises(ValueError, match=message):
        table(text, (1, 2), **options)


@pytest.mark.parametrize("text", ["ERR,ERR\n" * 4, "a,b\n" * 3 + "ERR,ERR\n"])
def test_a_header_has_few_lines(text):
    problem, window = table(text + "1,2\n", (1, 2))
    assert problem.message.startswith("line 4: ")
    assert window[0].tolist() == [[1, 2]]


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
        ((4, 2), {"decimal": ",", "delimiter": ","}, "other than the decimal mark"),
        ((4, 2), {"decimal": "x"}, "point or comma"),
    ],
)
def test_bad_shapes_and_options(shape, options, message):
    with pytest.raises(ValueError, match=message):
        table("1,2\n", shape, **options)
