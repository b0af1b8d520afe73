"""Ways to choose learners that stand for others."""
