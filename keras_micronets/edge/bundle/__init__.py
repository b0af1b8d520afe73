"""The format of a bundle, defined once for its writer and its readers."""

__all__: list[str] = []
