import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from tiny_tflite import tiny_tflite

from keras_micronets.edge import EnsembleRunner
from keras_micronets.edge.cli import main
from keras_micronets.edge.inputs.npy import PIECE_SAMPLES
from keras_micronets.export import BundleMember, write_bundle

NAMES = ["cat", "dog", "owl"]
IMAGE, WINDOW = (6, 6, 3), (6, 3, 1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {
        shape: write_bundle(
            folder / f"bundle{i}",
            [
                BundleMember(f"m{seed}", tiny_tflite(seed, shape=shape))
                for seed in range(2)
            ],
            class_names=NAMES,
            preprocessing={"mean": 127.5, "scale": 64.0} if shape == IMAGE else None,
        )
        for i, shape in enumerate((IMAGE, WINDOW))
    }


def predict(bundle, *arguments):
    return main(["predict", *map(str, arguments)], path=bundle)


def expected(bundle, x, *, members=False):
    with EnsembleRunner(bundle) as runner:
        return runner.predict_members(x) if members else runner.predict(x)


def shown(p):
    return f"{p.argmax()} {NAMES[p.argmax()]} {p.max():.4f}"


@pytest.fixture
def images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, *IMAGE), "uint8")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, x, strict=True):
        Image.fromarray(pixels).save(path)
    return x, paths


def rows(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype("float32")
    return x, "".join(f"{a},{b},{c}\n" for a, b, c in x.tolist())


def test_images_and_folders_by_name(bundles, images, capsys):
    x, paths = images
    p = expected(bundles[IMAGE], x)
    lines = [f"{path}: {shown(row)}" for path, row in zip(paths, p, strict=True)]
    assert predict(bundles[IMAGE], *paths) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert predict(bundles[IMAGE], paths[2], paths[0].parent) == 0
    assert capsys.readouterr().out.splitlines() == [lines[2], *lines]


def test_json(bundles, images, capsys):
    x, paths = images
    assert predict(bundles[IMAGE], paths[0], "--json", "--members") == 0
    answer = json.loads(capsys.readouterr().out)
    p = expected(bundles[IMAGE], x[:1])[0]
    members = expected(bundles[IMAGE], x[:1], members=True)[:, 0]
    assert answer.pop("members") == [
        {"member": f"m{i}", **named(member)} for i, member in enumerate(members)
    ]
    assert answer == {"index": 0, "file": str(paths[0]), **named(p)}


def named(p):
    best = int(p.argmax())
    probability = pytest.approx(float(p[best]), abs=1e-6)
    return {"class": best, "name": NAMES[best], "probability": probability}


def test_a_bad_image_among_others(bundles, images, tmp_path, capsys):
    x, paths = images
    paths[1].write_bytes(b"damage")
    output = tmp_path / "out.npy"
    assert predict(bundles[IMAGE], *paths, "--output", output) == 2
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == [
        str(paths[0]),
        str(paths[2]),
    ]
    assert captured.err.startswith(f"error: Expected an image. Received: {paths[1]} (")
    assert captured.err.count("\n") == 1
    np.testing.assert_array_equal(np.load(output), expected(bundles[IMAGE], x[[0, 2]]))


def test_a_model_without_images_reports_it_once(images, tmp_path, capsys):
    bundle = write_bundle(tmp_path / "b", [BundleMember("m", tiny_tflite())])
    assert predict(bundle, *images[1]) == 2
    assert capsys.readouterr().err.count("Expected a model for images") == 1


def test_a_large_file_is_predicted_in_pieces(bundles, tmp_path, capsys):
    n = PIECE_SAMPLES + 3
    x = np.random.default_rng(0).normal(size=(n, *WINDOW)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    output = tmp_path / "out.npy"
    output.write_text("an older one")
    arguments = [tmp_path / "x.npy", "--members", "--output", output]
    assert predict(bundles[WINDOW], *arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == n
    members = expected(bundles[WINDOW], x, members=True)
    np.testing.assert_array_equal(np.load(output), members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "x.npy"]


@pytest.mark.parametrize("members", [False, True])
def test_a_bad_sample_costs_itself_alone(bundles, tmp_path, capsys, members):
    x = np.random.default_rng(0).normal(size=(5, *WINDOW)).astype("float32")
    x[2, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    arguments = [tmp_path / "x.npy", "--output", tmp_path / "out.npy"]
    arguments += ["--members"] * members
    assert predict(bundles[WINDOW], *arguments) == 2
    captured = capsys.readouterr()
    assert [line[:2] for line in captured.out.splitlines()] == ["0:", "1:", "3:", "4:"]
    error, summary = captured.err.splitlines()
    assert error.startswith(f"error: {tmp_path / 'x.npy'}, sample 2: Expected finite")
    assert summary == "summary: 4 samples predicted, 1 rows or samples skipped"
    p = np.moveaxis(np.load(tmp_path / "out.npy"), -2, 0)
    assert np.isnan(p[2]).all()
    good = expected(bundles[WINDOW], np.delete(x, 2, axis=0), members=members)
    np.testing.assert_array_equal(np.delete(p, 2, axis=0), np.moveaxis(good, -2, 0))


@pytest.mark.parametrize("name", ["x.csv", "x.npy"])
def test_an_input_without_samples_is_an_error(bundles, tmp_path, capsys, name):
    (tmp_path / "x.csv").write_text("x,y,z\n\n")
    np.save(tmp_path / "x.npy", np.zeros((0, *WINDOW)))
    assert predict(bundles[WINDOW], tmp_path / name) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / name}: Expected ")


def test_an_incomplete_file_is_not_saved(bundles, tmp_path, capsys, monkeypatch):
    real, calls = EnsembleRunner.predict, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("no memory")
        return real(*arguments)

    monkeypatch.setattr(EnsembleRunner, "predict", failing)
    np.save(tmp_path / "x.npy", np.zeros((PIECE_SAMPLES + 3, *WINDOW), "float32"))
    (tmp_path / "out.npy").write_text("an older one")
    arguments = [tmp_path / "x.npy", "--output", tmp_path / "out.npy"]
    assert predict(bundles[WINDOW], *arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == PIECE_SAMPLES
    assert captured.err == f"error: {tmp_path / 'x.npy'}: no memory\n"
    assert (tmp_path / "out.npy").read_text() == "an older one"


def test_an_interrupted_file_is_not_saved(bundles, images, tmp_path, monkeypatch):
    real, calls = EnsembleRunner.predict, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(EnsembleRunner, "predict", interrupted)
    output = tmp_path / "out.npy"
    assert predict(bundles[IMAGE], *images[1], "--output", output) == 130
    assert not output.exists()


@pytest.mark.parametrize("output", ["absent/out.npy", "."])
def test_bad_output_path_is_reported_first(bundles, tmp_path, capsys, output):
    arguments = [tmp_path / "x.npy", "--output", tmp_path / output]
    assert predict(bundles[WINDOW], *arguments) == 2
    assert "to save to" in capsys.readouterr().err


def test_a_table(bundles, tmp_path, capsys):
    x, text = rows(15)
    (tmp_path / "x.csv").write_text("x,y,z\n" + text)
    assert predict(bundles[WINDOW], tmp_path / "x.csv", "--hop", 4) == 0
    captured = capsys.readouterr()
    windows = np.stack([x[i : i + 6] for i in (0, 4, 8)])[..., None]
    p = expected(bundles[WINDOW], windows)
    lines = [f"{i}: {shown(row)}" for i, row in enumerate(p)]
    assert captured.out.splitlines() == lines
    assert captured.err == (
        f"note: {tmp_path / 'x.csv'}, 1 rows at the end, too few for a window of 6: "
        "skipped.\n"
    )


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_file_of_a_logger(bundles, tmp_path, capsys, json_lines):
    x = rows(12)[0].astype("float64").round(3)
    lines = ["Logger 7, 2024", "Zeit\tay\taz\tax\tt", "\tg\tg\tg\t1/min"]
    for i, (a, b, c) in enumerate(x.tolist()):
        cells = (f"12:00:{i:02}", b, c, a, 99)
        lines.append("\t".join(map(str, cells)).replace(".", ","))
    path = tmp_path / "x.tsv"
    path.write_text("\n".join(lines), encoding="utf-16")
    options = ["--columns", "ax,ay,az", "--time", "Zeit", "--skip", 1, "--decimal", ","]
    options += ["--delimiter", "\\t"]
    for used in (options, options[:-2]):  # a tab is the default of `.tsv`
        assert predict(bundles[WINDOW], path, *used, *["--json"] * json_lines) == 0
        lines = capsys.readouterr().out.splitlines()
        p = expected(bundles[WINDOW], x.reshape(2, *WINDOW).astype("float32"))
        if json_lines:
            assert [json.loads(line)["time"] for line in lines] == [
                "12:00:05",
                "12:00:11",
            ]
            assert [json.loads(line)["class"] for line in lines] == [*p.argmax(axis=-1)]
        else:
            texts = [shown(row) for row in p]
            assert lines == [f"0 at 12:00:05: {texts[0]}", f"1 at 12:00:11: {texts[1]}"]


@pytest.mark.parametrize(
    "options", [["--delimiter", "ab"], ["--decimal", ";"], ["--skip", "-1"]]
)
def test_bad_formats_are_rejected_first(bundles, tmp_path, capsys, options):
    assert predict(bundles[WINDOW], tmp_path / "absent.csv", *options) == 2
    assert options[0] in capsys.readouterr().err


def test_a_bad_line_of_a_table(bundles, tmp_path, capsys):
    x, text = rows(13)
    lines = text.splitlines(keepends=True)
    lines.insert(7, "1,2,x\n")
    (tmp_path / "x.csv").write_text("".join(lines))
    output = tmp_path / "out.npy"
    assert predict(bundles[WINDOW], tmp_path / "x.csv", "--output", output) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"error: {tmp_path / 'x.csv'}, line 8: Expected finite numbers. Received: 'x'.",
        "summary: 2 samples predicted, 1 rows or samples skipped",
    ]
    windows = np.stack([x[:6], x[7:13]])[..., None]
    np.testing.assert_array_equal(np.load(output), expected(bundles[WINDOW], windows))


@pytest.fixture
def start(bundles):
    """Return a function that starts `predict -`; its pipes have no buffers."""
    started = []

    def start(*arguments, bundle=bundles[WINDOW]):
        command = [sys.executable, bundle, "predict", "-", *arguments]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        process = subprocess.Popen([*map(str, command)], bufsize=0, env=env, **pipes)
        # A reader that waits for a missing line then sees the end of the file.
        watch = threading.Timer(20, process.kill)
        watch.start()
        started.append((process, watch))
        return process

    yield start
    for process, watch in started:
        watch.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def messages(readline, n=None):
    """Return the lines, at most n, without messages of LiteRT."""
    lines = iter(readline, b"") if n is None else (readline() for _ in range(n))
    return [line for line in lines if not line.startswith(b"INFO: ")]


def test_a_window_is_predicted_before_the_stream_ends(start, bundles):
    x, text = rows(14)
    lines = text.encode().splitlines(keepends=True)
    process = start()
    process.stdin.write(b"".join(lines[:6]))
    answer = process.stdout.readline().decode()
    assert answer == f"0: {shown(expected(bundles[WINDOW], x[None, :6, :, None])[0])}\n"
    process.stdin.write(b"".join(lines[6:9]) + b"no row\n")
    assert messages(process.stderr.readline, 2) == [
        b"error: line 10: Expected 3 columns. Received: 1.\n"
    ]
    os.set_blocking(process.stdout.fileno(), False)
    assert process.stdout.read() is None  # half a window was read, and is no answer
    os.set_blocking(process.stdout.fileno(), True)
    process.stdin.write(b"".join(lines[8:14]))
    p = expected(bundles[WINDOW], x[None, 8:14, :, None])[0]
    assert process.stdout.readline().decode() == f"1: {shown(p)}\n"
    process.stdin.close()
    assert process.wait(20) == 2


def test_arrays_in_a_stream(start, bundles, tmp_path):
    x = np.random.default_rng(0).normal(size=(4, *WINDOW)).astype("float32")
    file = io.BytesIO()
    for array in (x[:1], x[1], x[2:]):
        np.save(file, array)
    process = start("--output", tmp_path / "out.npy", "--json")
    out, err = process.communicate(file.getvalue() + b"no array", timeout=20)
    assert [json.loads(line)["index"] for line in out.splitlines()] == [0, 1, 2, 3]
    assert json.loads(out.splitlines()[0])["file"] is None
    assert b"error: standard input: not an array: it starts with b'no array'" in err
    assert process.returncode == 2
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), expected(bundles[WINDOW], x)
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signals_end_a_stream_quietly(start, tmp_path, number, code):
    process = start("--output", tmp_path / "out.npy")
    process.stdin.write(rows(6)[1].encode())
    assert process.stdout.readline().startswith(b"0: ")
    process.send_signal(number)
    assert process.wait(20) == code
    assert messages(process.stderr.readline) == []
    assert np.load(tmp_path / "out.npy").shape == (1, 3)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_hangup_reloads_the_bundle(start, bundles, tmp_path):
    def put(seed):
        member = BundleMember("m", tiny_tflite(seed, shape=WINDOW))
        return write_bundle(tmp_path / "bundle", [member])

    def answer():
        process.stdin.write(text.encode())
        return process.stdout.readline().decode().split(": ")[1]

    x, text = rows(6)
    process, answers = start(bundle=put(0)), []
    answers.append((answer(), expected(tmp_path / "bundle", x[None, ..., None])))
    put(1)
    process.send_signal(signal.SIGHUP)
    answers.append((answer(), expected(tmp_path / "bundle", x[None, ..., None])))
    (tmp_path / "bundle" / "manifest.json").write_text("damage")
    process.send_signal(signal.SIGHUP)
    answers.append((answer(), answers[-1][1]))
    for text, (p,) in answers:
        assert text == f"{p.argmax()} {p.max():.4f}\n"
    assert answers[0][0] != answers[1][0]
    process.stdin.close()
    assert process.wait(20) == 2
    (error,) = messages(process.stderr.readline)
    assert error.endswith(b"The previous bundle stays in use.\n")


def test_closed_stdout(start):
    process = start()
    process.stdin.write(rows(6)[1].encode())
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(rows(6)[1].encode())
    assert process.wait(20) == 141
    assert messages(process.stderr.readline) == []
