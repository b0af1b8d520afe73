"""Selection methods that cluster the learners and keep representatives."""

__all__: list[str] = []
