"""Processes that load files first; run it once per backend."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from model_cases import images, outputs, residual

from keras_micronets.export import export_tflite, make_file
from keras_micronets.export.bundle.tflite_graph import TFLiteGraph
from keras_micronets.export.workers import load_file, worker
from keras_micronets.export.workers.worker import Worker, check_file, running_worker

LOADER = load_file.__file__


def tflite(operation="ELU", *, operand=0):
    """Return a file of one operation; LiteRT crashes on a SQUEEZE of the operand -1."""
    graph = TFLiteGraph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.add(operation, operand, output=y)
    return graph.content({"x": x}, {"y": y}, "one operation")


def process():
    return running_worker(LOADER)._process.pid


def test_a_file_that_kills_litert_kills_the_worker_only():
    check_file(tflite(), "sound")
    pid = process()
    check_file(tflite(), "sound")
    assert process() == pid  # kept warm
    with pytest.raises(ValueError, match=r"'broken', .* process \(SIGSEGV\).*unharmed"):
        check_file(tflite("SQUEEZE", operand=-1), "broken")
    check_file(tflite(), "sound")
    assert process() != pid


def test_an_error_of_litert_is_left_to_the_caller():
    check_file(b"no file", "noise")
    pid = process()
    check_file(tflite("CONV_2D"), "without a kernel")
    assert process() == pid


@pytest.mark.tensorflow
def test_export_and_model_survive(tmp_path, monkeypatch):
    model, path = residual(), tmp_path / "model.tflite"
    path.write_bytes(b"older")
    before = outputs(model, images(8))
    broken = tflite("SQUEEZE", operand=-1)
    monkeypatch.setattr(make_file, "convert", lambda *args, **kwargs: broken)
    with pytest.raises(ValueError, match=f"'{model.name}', whose .*not written"):
        export_tflite(model, path, quantization=None)
    assert path.read_bytes() == b"older"
    monkeypatch.undo()
    np.testing.assert_array_equal(outputs(model, images(8)), before)
    report = export_tflite(model, path, quantization=None)
    assert report.n_bytes == path.stat().st_size


@pytest.mark.tensorflow
def test_a_sparse_file_that_kills_litert_is_not_kept():
    dense, broken = tflite(), tflite("SQUEEZE", operand=-1)
    x = [np.zeros((2, 4), "float32")]
    content, words = make_file.prefer_sparse(dense, lambda sparse: broken, x)
    assert (content, words[:8]) == (dense, "not kept")


def test_a_worker_that_was_killed_is_replaced():
    one = running_worker(LOADER)
    os.kill(one._process.pid, signal.SIGKILL)
    one._process.wait()
    check_file(tflite(), "sound")
    assert running_worker(LOADER) is not one


def test_a_worker_in_another_environment_is_replaced(monkeypatch):
    pid = process()
    monkeypatch.syspath_prepend("elsewhere")
    assert process() != pid


def test_interrupted_jobs_are_not_answered_later(monkeypatch):
    one = running_worker(LOADER)

    def interrupt(job=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.run("model.tflite")
    assert running_worker(LOADER) is not one


def test_without_processes_files_are_loaded_here(monkeypatch):
    monkeypatch.setattr(worker, "_workers", {})
    monkeypatch.setattr(worker.sys, "executable", "false")
    with pytest.warns(UserWarning, match=r"No separate process .* return code 1"):
        check_file(tflite(), "sound")
    monkeypatch.setattr(worker.sys, "executable", "no/such/python")
    with pytest.warns(UserWarning, match="No such file"):
        check_file(tflite(), "sound")


def test_a_job_that_raises(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nprint('ready', flush=True)\nraise ValueError(input())\n"
    )
    one = Worker(str(program), environment={})
    with pytest.raises(worker.WorkerDiedError, match=r"code 1[\s\S]*ValueError: job"):
        one.run("job")
    assert not one.is_alive


def test_what_libraries_print_is_no_answer(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(Path(LOADER).parent)!r})\n"
        "from load_file import serve\n"
        "serve(lambda job: (print('loud'), os.system('echo loud'), open(job, 'a')))\n"
    )
    one = Worker(str(program), environment={})
    for name in ("a", "b"):
        one.run(str(tmp_path / name))
        assert (tmp_path / name).exists()
    one.close()


def test_the_program_imports_neither_keras_nor_tensorflow():
    code = (
        f"import runpy, sys; runpy.run_path({LOADER!r}); "
        "print({'keras', 'tensorflow', 'keras_micronets'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# `worker.py` needs no other module, so a process without threads can load it alone.
FORKS = """
import importlib.util, os
spec = importlib.util.spec_from_file_location("worker", PATH)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.check_file(CONTENT, "here")
(here,) = worker._workers.values()
child = os.fork()
if child == 0:
    worker.check_file(CONTENT, "child")
    (there,) = worker._workers.values()
    assert there is not here
    there.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
worker.check_file(CONTENT, "here")
assert worker._workers == {key: here for key in worker._workers}
print(here._process.pid)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_another_worker_and_exit_ends_it():
    code = textwrap.dedent(FORKS)
    code = f"PATH, CONTENT = {worker.__file__!r}, {tflite()!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
