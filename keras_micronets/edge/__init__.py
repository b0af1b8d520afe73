"""What runs on the device. It needs NumPy and ai-edge-litert, nothing else.

This package is copied into every bundle as it is: inside it imports are relative.
"""

from .bench import bench
from .bench_report import BenchReport
from .bundle.integrity import verify
from .bundle.manifest import Manifest
from .combine import combine
from .early_exit import EarlyExit
from .member import Member
from .preprocessing import Preprocessing
from .runner import EnsembleRunner

__all__ = [
    "BenchReport",
    "EarlyExit",
    "EnsembleRunner",
    "Manifest",
    "Member",
    "Preprocessing",
    "bench",
    "combine",
    "verify",
]
