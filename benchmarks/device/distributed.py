"""Latency and throughput of members on other devices, connected by MQTT.

    python -m benchmarks.device.distributed

Four int8 members of ResNet-8, untrained, single inputs. The runner alone, in this
process, is interleaved with a gateway and 1, 2 and 4 nodes, each a process on this
machine, with Mosquitto on loopback. Latency is measured with one request at a time,
throughput with eight. Each value is the median over the rounds. Since all nodes share
one machine they cannot be faster than the runner: this measures the cost of the
network, not the gain of more devices.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.lib.results import RESULTS_FOLDER
from benchmarks.lib.sections import machine
from keras_micronets.edge import Broker, EnsembleRunner, Gateway

RESULTS = RESULTS_FOLDER / "distributed.json"
SHAPE, N_MEMBERS, IN_FLIGHT = (32, 32, 3), 4, 8
#: The members of each node.
LAYOUTS = {
    "1 node": ["0,1,2,3"],
    "2 nodes": ["0,1", "2,3"],
    "4 nodes": ["0", "1", "2", "3"],
}
PERCENTILES = (50, 90, 99)


def make_bundle(folder: Path) -> None:
    """Export the members; in a process of its own, which alone loads TensorFlow."""
    import keras

    import keras_micronets as kmn
    from benchmarks.lib.nets import resnet8
    from keras_micronets.export import BundleMember, write_bundle

    data = np.random.default_rng(0).random((64, *SHAPE), "float32")
    members = []
    for seed in range(N_MEMBERS):
        keras.utils.set_random_seed(seed)
        path = folder / f"{seed}.tflite"
        kmn.export_tflite(resnet8(), path, representative_data=data)
        members.append(BundleMember(f"m{seed}", path.read_bytes(), from_logits=True))
    write_bundle(folder / "bundle", members)


@contextlib.contextmanager
def mosquitto(folder: Path):
    """Run a broker and yield it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true"]
    lines.append("set_tcp_nodelay true")
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    command = [program, "-c", folder / "mosquitto.conf"]
    broker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.01)
        yield Broker("127.0.0.1", port)
    finally:
        broker.kill()
        broker.wait()


@contextlib.contextmanager
def ensemble(bundle: Path, broker: Broker, name: str):
    """Start the nodes of a layout and yield a gateway to them."""
    prefix = name.replace(" ", "-")
    nodes = []
    try:
        for place, members in enumerate(LAYOUTS[name]):
            command = [sys.executable, bundle, "node", "--broker", str(broker)]
            command += ["--members", members, "--name", f"node-{place}"]
            command += ["--prefix", prefix, "--capacity", str(IN_FLIGHT)]
            nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        with Gateway(bundle, broker, deadline=30, prefix=prefix) as gateway:
            if not gateway.wait(60):
                raise TimeoutError(f"Expected nodes. Received: {gateway.nodes}.")
            yield gateway
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()


def measure(predict, inputs: np.ndarray) -> dict:
    """Time one request after the other, then several at a time."""
    seconds = []
    for x in inputs:
        start = time.perf_counter()
        predict(x[None])
        seconds.append(time.perf_counter() - start)
    with ThreadPoolExecutor(IN_FLIGHT) as callers:
        start = time.perf_counter()
        list(callers.map(predict, inputs[:, None]))
        together = time.perf_counter() - start
    found = {f"p{p}_ms": 1000 * np.percentile(seconds, p) for p in PERCENTILES}
    return {**found, "per_second": len(inputs) / together}


def run(bundle: Path, folder: Path, rounds: int, requests: int) -> dict:
    """Measure all variants in turns; return every round of each."""
    inputs = np.random.default_rng(1).random((requests, *SHAPE), "float32")
    measured = {}
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(EnsembleRunner(bundle))
        broker = stack.enter_context(mosquitto(folder))
        variants = {"runner alone": runner.predict}
        for name in LAYOUTS:
            gateway = stack.enter_context(ensemble(bundle, broker, name))
            variants[name] = gateway.predict
            answer = gateway.predict(inputs[:1])
            expected = runner.predict(inputs[:1])
            np.testing.assert_array_equal(answer.probabilities, expected)
        for predict in variants.values():
            measure(predict, inputs[:20])
        for number in range(rounds):
            for name, predict in variants.items():
                measured.setdefault(name, []).append(measure(predict, inputs))
            print(f"round {number + 1} of {rounds}", flush=True)
    return measured


def table(results: dict) -> str:
    """Return the medians over the rounds as a Markdown table."""
    lines = [
        "| four ResNet-8, one input | p50, ms | p90, ms | p99, ms | requests/s |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in results["rounds"].items():
        p50, p90, p99, rate = (median(r[key] for r in rounds) for key in rounds[0])
        lines.append(f"| {name} | {p50:.2f} | {p90:.2f} | {p99:.2f} | {rate:.0f} |")
    return "\n".join(lines)


def main():
    arguments = parse()
    if arguments.make:
        make_bundle(arguments.make)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = "benchmarks.device.distributed"
        command = [sys.executable, "-m", module, "--make", folder]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        subprocess.run(command, env=environment, check=True)
        rounds = run(folder / "bundle", folder, arguments.rounds, arguments.requests)
    results = {**machine(), "requests": arguments.requests, "rounds": rounds}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=200, help="a variant and round")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
