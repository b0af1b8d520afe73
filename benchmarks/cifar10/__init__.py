"""Accuracy on CIFAR-10, with baselines."""
