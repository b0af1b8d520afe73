"""Train many learners in one `fit`, one per training cycle."""

__all__: list[str] = []
