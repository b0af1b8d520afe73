import pytest

from keras_micronets.selection.validation import progress


def test_silent():
    items = [1, 2]
    assert progress(items, 2, "counting", 0) is items


def test_each_percent_is_written_once(capsys):
    assert list(progress(range(1000), 1000, "counting", 1)) == list(range(1000))
    shares = capsys.readouterr().err.split("\r")[1:]
    assert shares == [f"counting: {k}%" for k in range(100)] + ["counting: 100%\n"]


def test_nothing_to_do(capsys):
    assert list(progress([], 0, "counting", 1)) == []
    assert capsys.readouterr().err == "\rcounting: 100%\n"


def test_errors_start_on_a_new_line(capsys):
    def fails():
        yield 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(progress(fails(), 4, "counting", 1))
    assert capsys.readouterr().err == "\rcounting: 0%\n"
