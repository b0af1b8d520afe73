"""How layers that have weights, or lengths among their settings, pass channels on.

Layers that have neither need no rule: `probe` tries whether they take channels apart.
"""

from keras_micronets.channels.graph.rules import kernels, moves, vectors
from keras_micronets.channels.graph.rules.registry import rule_of

__all__ = ["kernels", "moves", "rule_of", "vectors"]
