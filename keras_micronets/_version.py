"""The version of the package, in a file that setup.cfg reads without imports."""

__all__ = ["__version__"]

__version__ = "0.1.0"
