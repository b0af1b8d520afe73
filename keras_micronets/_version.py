"""The version of the package, kept where setup.cfg can read it without imports."""

__version__ = "0.1.0"
