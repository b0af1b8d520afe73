"""Do the tests notice faults in the code that decides what may be cut?

    python -m benchmarks.channels.mutants

One hundred mutants are drawn with seed 0 from all places where the probe, the rules,
the ties, the check and the cut compare, decide, count or call: a comparison or an
operator is replaced, a condition negated, a number changed by one, a Boolean reversed,
a statement left out. For each, the tests of channels run on a copy of the package until
one fails. A mutant that no test notices within the limit of time is listed with its
line. Mutants in the results file are not run again.
"""

import argparse
import ast
import contextlib
import copy
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.lib.results import RESULTS_FOLDER, ResultsFile, commit
from benchmarks.lib.sections import ROOT

RESULTS = RESULTS_FOLDER / "mutants.json"
FOLDER = ROOT / "keras_micronets" / "channels"
FILES = ("check.py", "cut.py", "graph/channel_graph.py", "graph/probe.py")
FILES += ("graph/rules.py", "graph/position_rules.py", "graph/sequence_rules.py")
FILES += ("graph/trace.py",)
N_MUTANTS, LIMIT = 100, 600
TESTS = "test_channel_*.py"

_OTHER_COMPARISON = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_OPERATOR = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--n", type=int, default=N_MUTANTS)
    options.add_argument("--out", type=Path, default=RESULTS)
    arguments = options.parse_args()
    file = ResultsFile(arguments.out, {"limit": LIMIT})
    for about, source in draw(arguments.n):
        if not file.has(about):
            file.add({**about, "commit": commit(), **run(about["file"], source)})
    print(table(file.results))


def draw(n):
    """Yield what `n` mutants change, and the mutated sources."""
    found = [(name, *place) for name in FILES for place in places(name)]
    rng = np.random.default_rng(0)
    for index in rng.permutation(len(found))[:n]:
        name, number, what, line = found[index]
        about = {"file": name, "line": line, "change": what, "number": number}
        yield about, mutated(name, number)


def places(name):
    """Yield the number, the change and the line of each mutant of a file."""
    tree = ast.parse((FOLDER / name).read_text())
    for number, (node, what, _) in enumerate(_changes(tree)):
        yield number, what, node.lineno


def mutated(name, number):
    tree = ast.parse((FOLDER / name).read_text())
    _, _, change = list(_changes(tree))[number]
    change()
    return ast.unparse(ast.fix_missing_locations(tree))


def _changes(tree):
    """Yield `(node, description, function that changes the tree)`."""
    for node in ast.walk(tree):
        for change in _changes_of(node):
            yield (node, *change)
        for field in ("body", "orelse"):
            for i, one in enumerate(_statements(node, field)):
                if _may_go(one):
                    yield one, "left out", _replacer(getattr(node, field), i)


def _changes_of(node):
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = _OTHER_COMPARISON[type(node.ops[0])]
        yield f"compares by {other.__name__}", lambda: node.ops.__setitem__(0, other())
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _OTHER_OPERATOR:
        other = _OTHER_OPERATOR[type(node.op)]
        yield f"operator {other.__name__}", lambda: setattr(node, "op", other())
    if isinstance(node, ast.If | ast.IfExp):
        negated = ast.UnaryOp(ast.Not(), copy.deepcopy(node.test))
        yield "condition negated", lambda: setattr(node, "test", negated)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{node.value} becomes {value}", lambda: setattr(node, "value", value)


def _statements(node, field):
    body = getattr(node, field, None)
    return body if isinstance(body, list) else []


def _may_go(statement):
    """Whether code without the statement can still run: not one of documentation."""
    if isinstance(statement, ast.AugAssign | ast.Continue):
        return True
    is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    return is_call


def _replacer(body, index):
    return lambda: body.__setitem__(index, ast.Pass())


def run(name, source):
    """Run the tests on a mutant; return whether one failed, and which."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for part in ("keras_micronets", "tests"):
            shutil.copytree(ROOT / part, Path(folder, part))
        shutil.copy(ROOT / "setup.cfg", folder)
        Path(folder, "keras_micronets", "channels", name).write_text(source)
        log = Path(folder) / "log"
        child = os.fork()
        if child == 0:
            _test(folder, log)
        noticed = _wait(child) != 0
        lines = log.read_text().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    seconds = round(time.perf_counter() - start, 1)
    by = failed[0][:200] if failed else "time" if noticed else None
    return {"noticed": noticed, "by": by, "seconds": seconds}


def _test(folder, log):
    """Run the tests in this process, a copy that has imported TensorFlow already."""
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, folder)
    for name in [x for x in sys.modules if x.partition(".")[0] == "keras_micronets"]:
        del sys.modules[name]
    with log.open("w") as file, contextlib.redirect_stdout(file):
        import pytest

        tests = sorted(map(str, Path(folder, "tests").glob(TESTS)))
        code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
    os._exit(int(code != 0))


def _wait(child):
    """Return the status of a process, which is ended after the limit of time."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def table(results):
    """Return the results as tables for the documentation."""
    rows = results["runs"]
    lines = ["| file | mutants | noticed |", "|---|---|---|"]
    for name in dict.fromkeys(row["file"] for row in rows):
        own = [row for row in rows if row["file"] == name]
        lines.append(f"| {name} | {len(own)} | {sum(row['noticed'] for row in own)} |")
    lines.append(f"| all | {len(rows)} | {sum(row['noticed'] for row in rows)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import tensorflow  # noqa: F401

    main()
