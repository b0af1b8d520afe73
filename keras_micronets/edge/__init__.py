"""The runtime for devices: it needs NumPy and ai-edge-litert, nothing else.

`Gateway` and `Node`, which need paho-mqtt as well, and `time_operators` are loaded on
first use. The package is copied into every bundle, so its imports are relative.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .alarm import Alarm, choose_alarm
from .bench import BenchReport, bench
from .bundle.integrity import verify
from .bundle.manifest import Manifest
from .combine import combine
from .early_exit import EarlyExit
from .member import Member
from .preprocessing import Preprocessing
from .runner import EnsembleRunner
from .tasks import TASKS, SpreadScale, spread

if TYPE_CHECKING:
    from .distributed.broker import Broker
    from .distributed.dispatcher import OverloadedError
    from .distributed.gateway import Gateway
    from .distributed.node import Node
    from .distributed.request import EnsembleResult, NoQuorumError
    from .operators import time_operators

_LAZY = {
    "Broker": "distributed.broker",
    "EnsembleResult": "distributed.request",
    "Gateway": "distributed.gateway",
    "NoQuorumError": "distributed.request",
    "Node": "distributed.node",
    "OverloadedError": "distributed.dispatcher",
    "time_operators": "operators",
}

__all__ = [
    "TASKS",
    "Alarm",
    "BenchReport",
    "Broker",
    "EarlyExit",
    "EnsembleResult",
    "EnsembleRunner",
    "Gateway",
    "Manifest",
    "Member",
    "NoQuorumError",
    "Node",
    "OverloadedError",
    "Preprocessing",
    "SpreadScale",
    "bench",
    "choose_alarm",
    "combine",
    "spread",
    "time_operators",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name]}", __name__)
    return getattr(module, name)
