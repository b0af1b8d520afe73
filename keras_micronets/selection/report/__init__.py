"""Reports of a selection: a text table, plots, and an HTML page with all of them."""

__all__: list[str] = []
