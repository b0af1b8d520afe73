"""What runs on the device. It needs NumPy and ai-edge-litert, nothing else.

This package is copied into every bundle as it is: inside it imports are relative.
"""

from .bench import Latency, bench
from .combine import combine
from .integrity import verify
from .manifest import Manifest
from .member import Member
from .preprocessing import Preprocessing
from .runner import EnsembleRunner

__all__ = [
    "EnsembleRunner",
    "Latency",
    "Manifest",
    "Member",
    "Preprocessing",
    "bench",
    "combine",
    "verify",
]
