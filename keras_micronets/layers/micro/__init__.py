"""Keras layers and operations that can be pruned and quantised."""
