"""Channel pruning: budgets, correctness, latency."""
