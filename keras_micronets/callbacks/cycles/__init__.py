"""Train many learners in one `fit`, one per training cycle."""

__all__ = []
