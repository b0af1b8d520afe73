"""Latency, memory and traffic of bundles."""
