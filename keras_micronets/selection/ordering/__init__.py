"""Selection methods that order the learners and keep the first ones."""

__all__: list[str] = []
