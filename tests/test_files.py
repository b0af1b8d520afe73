import json
import os

import pytest

from keras_micronets.export import atomic
from keras_micronets.learners import storage


def test_a_partial_folder_may_be_renamed_away(tmp_path):
    with storage.partial_directory(tmp_path) as partial:
        assert partial.name.startswith(f".partial-{os.getpid()}-")
        (partial / "file").write_text("all")
        partial.rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole" / "file").read_text() == "all"


def test_a_partial_folder_is_removed_when_the_block_fails(tmp_path):
    def fail(partial):
        (partial / "file").write_text("half")
        raise RuntimeError("halfway")

    with (
        pytest.raises(RuntimeError, match="halfway"),
        storage.partial_directory(tmp_path) as partial,
    ):
        fail(partial)
    assert list(tmp_path.iterdir()) == []


def test_files_that_may_be_in_use_stay(tmp_path):
    kept = [f".partial-{os.getpid()}-1", ".partial-x-1", "partial-1-1", ".partial-1-1"]
    for name in kept:  # process 1 runs, whoever owns it
        (tmp_path / name).mkdir()
    atomic.remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    storage.write_json(path, {"a": 1})
    storage.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert list(tmp_path.iterdir()) == [path]

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 2}
