"""Ensembles, distillation and their controls, on four tasks."""
