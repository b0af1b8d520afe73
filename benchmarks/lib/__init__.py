"""What the benchmarks share: data, networks, results files, sections."""
