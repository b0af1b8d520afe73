"""Pools of learners: faults, and their size."""
