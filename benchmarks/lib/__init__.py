"""Shared code of the benchmarks: data, networks, results files, sections."""
