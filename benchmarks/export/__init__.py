"""Exported files against the Keras models they come from."""
