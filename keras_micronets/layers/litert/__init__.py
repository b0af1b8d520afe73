"""What LiteRT computes in integers, and how it rounds."""

__all__: list[str] = []
