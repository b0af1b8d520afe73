"""The report of a selection: a table, pictures, and a page that holds them all."""
