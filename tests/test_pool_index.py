"""The index of a pool: learners are found without it, and never because of it."""

import json
import os
import shutil

import pytest
from tiny_tflite import samples, tiny_tflite

from keras_micronets import LearnerPool
from keras_micronets.learners import contents, predictions
from keras_micronets.learners.learner import Learner

INDEX = "learners.index"


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "tiny.tflite").write_bytes(tiny_tflite())
    pool = LearnerPool(tmp_path / "pool")
    for epoch in range(3):
        add(pool, epoch=epoch, metrics={"val_accuracy": epoch / 4})
    return pool


@pytest.fixture
def read(monkeypatch):
    """List the learners that are read from their folders."""
    names, read = [], Learner.read
    monkeypatch.setattr(
        Learner, "read", lambda folder: names.append(folder.name) or read(folder)
    )
    return names


def add(pool, **metadata):
    return pool.add_tflite(pool.path.with_name("tiny.tflite"), **metadata)


def change(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


def test_an_opened_pool_reads_the_index_only(pool, read):
    assert LearnerPool(pool.path).learners == pool.learners
    assert read == []


@pytest.mark.parametrize(
    ("damage", "n_read"),
    [
        (lambda path: path.unlink(), 3),
        (lambda path: path.write_text(""), 3),
        (lambda path: path.write_bytes(b"\xff\n[1]\n{}\n" * 9), 3),
        (lambda path: os.truncate(path, path.stat().st_size - 9), 1),
        (lambda path: change(path, b'"val_accuracy":0.25', b'"val_accuracy":0.75'), 1),
    ],
)
def test_an_index_that_is_wrong_is_made_again(pool, read, damage, n_read):
    damage(pool.path / INDEX)
    assert LearnerPool(pool.path).learners == pool.learners
    assert len(read) == n_read
    assert LearnerPool(pool.path).learners == pool.learners
    assert len(read) == n_read


def test_an_index_that_cannot_be_written_is_done_without(pool):
    (pool.path / INDEX).unlink()
    (pool.path / INDEX).mkdir()
    add(pool)
    assert LearnerPool(pool.path).learners == pool.learners


def test_a_copied_pool_reads_its_learners_again(pool, tmp_path, read):
    shutil.copytree(pool.path, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = LearnerPool(tmp_path / "copy")
    assert [x.sha256 for x in copy] == [x.sha256 for x in pool]
    assert copy[0].path.is_relative_to(copy.path)
    assert len(read) == 3


def test_the_index_does_not_grow_without_bound(pool, monkeypatch):
    monkeypatch.setattr(contents, "_SPARE_LINES", 5)
    for _ in range(20):
        add(pool, name="replaced")
        pool.remove("replaced")
    again = LearnerPool(pool.path)
    assert len((pool.path / INDEX).read_bytes().splitlines()) == 3
    assert LearnerPool(pool.path).learners == again.learners == pool.learners


def test_adding_reads_no_other_learner(pool, read):
    add(pool, name="new")
    assert read == ["new"]


def test_refresh_notices_learners_that_were_replaced_removed_or_damaged(pool):
    other = LearnerPool(pool.path)
    other.remove("learner-0000")
    other.remove("learner-0001")
    replaced = add(other, name="learner-0001", epoch=7)
    pool.refresh()
    assert pool.learners == other.learners
    assert pool["learner-0001"] == replaced
    with replaced.path.open("ab") as file:
        file.write(b"x")
    with pytest.warns(UserWarning, match="'learner-0001'"):
        pool.refresh()
    assert "learner-0001" not in pool


def test_no_warning_of_a_learner_that_is_removed_while_it_is_read(pool, monkeypatch):
    (pool.path / INDEX).unlink()
    read = contents._read

    def remove(folder):
        shutil.rmtree(folder) if folder.name == "learner-0001" else None
        return read(folder)

    monkeypatch.setattr(contents, "_read", remove)
    assert len(LearnerPool(pool.path)) == 2


def test_damage_that_keeps_size_and_time_is_noticed_before_use(pool):
    path = pool[0].path
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = LearnerPool(pool.path)
    assert len(again) == 3
    with pytest.raises(ValueError, match=r"Expected the model's file as it was added"):
        again[0].load()
    with pytest.raises(ValueError, match=r"Expected the model's file as it was added"):
        again.predict(samples(), verbose=0)
    add(again, name=again[0].name)
    assert again.predict(samples(), verbose=0).shape[0] == 3


def test_a_damaged_learner_that_another_process_replaced_stays(pool, monkeypatch):
    """It replaces it after this process has found it damaged."""
    other = LearnerPool(pool.path)
    pool[1].path.write_bytes(b"x")
    rename = os.rename
    renamed = []

    def late(source, target):
        if not renamed and os.path.basename(source) == "learner-0001":
            renamed.append(source)
            shutil.rmtree(source)
            add(other, name="learner-0001", epoch=9)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(ValueError, match="not taken yet"):
        add(pool, name="learner-0001", epoch=8)
    assert renamed
    assert LearnerPool(pool.path)["learner-0001"].epoch == 9


def refuse(*args, **kwargs):
    raise PermissionError(30, "Read-only file system")


def test_a_pool_that_cannot_be_written_predicts(pool, monkeypatch):
    expected = pool.predict(samples(), verbose=0)
    shutil.rmtree(pool.path / "predictions")
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    monkeypatch.setattr(predictions, "write_atomically", refuse)
    (pool.path / ".partial-0-0").touch()
    again = LearnerPool(pool.path)
    assert (again.predict(samples(), verbose=0) == expected).all()
    assert again.predict(samples(), verbose=0, mapped=True).shape == expected.shape


def test_leftovers_of_killed_processes_are_removed_from_all_folders(pool):
    pool.predict(samples(), verbose=0)
    (cache,) = (pool.path / "predictions").iterdir()
    folders = [pool.path, pool.path / "learners", pool.path / "predictions", cache]
    for folder in folders:
        (folder / ".partial-999999999-0").write_text("half")
    LearnerPool(pool.path)
    assert not list(pool.path.rglob(".partial-*"))


def test_leftovers_of_other_hosts_stay_for_a_day(pool):
    path = pool.path / ".partial-999999999-another-0"
    path.touch()
    LearnerPool(pool.path)
    assert path.exists()
    os.utime(path, (0, 0))
    LearnerPool(pool.path)
    assert not path.exists()


def test_metadata_are_read_as_they_were_written(pool):
    metrics = {"a": [0.1, float("nan")], 3: (1, 2), "b": float("inf"), "c": object()}
    learner = add(pool, metrics=metrics)
    assert learner.metrics == {"a": [0.1, None], "3": [1, 2]}
    assert LearnerPool(pool.path)[learner.name] == learner
    text = (learner.directory / "learner.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"] == learner.metrics
