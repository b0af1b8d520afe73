"""The cost of the callbacks."""
