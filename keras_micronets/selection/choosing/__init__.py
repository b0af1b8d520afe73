"""Which method, how many members, within which budget."""
