import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_two_commands_are_one_line_each():
    commands = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)

    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)
    assert "keras-micronets quickstart" in commands[0]
    assert "pytest" in commands[1]


def test_ci_finds_the_test_command():
    pattern = re.compile(r"^python3 .*pytest.*$", re.MULTILINE)

    assert len(pattern.findall(README)) == 1


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        "callbacks.overhead",
        "callbacks.recipes",
        "callbacks.pruning_scope",
        "channels.cut",
        "channels.compact",
        "channels.latency",
        "channels.torch_pruning",
        "cifar10.papers",
        "cifar10.pipeline",
        "cifar10.quantization",
        "device.distributed",
        "device.edge",
        "ensembles.compare",
        "ensembles.other_tasks",
        "export.parity",
        "learners.pools",
        "selection.default",
        "selection.quality",
        "selection.speed",
        "selection.stream_memory",
    ],
)
def test_tables_are_those_of_the_results_files(name):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    table = benchmark.table(json.loads(benchmark.RESULTS.read_text())).strip("\n")

    assert table in (ROOT / "docs" / "benchmarks.md").read_text()
    assert name != "quickstart" or table in README
