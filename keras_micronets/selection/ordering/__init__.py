"""Ways to choose learners one after the other, and the controls they have to beat.

`greedy`, `reduced_error` and `backward_elimination` look at the mean probability of the
members; `complementariness`, `margin_distance`, `orientation_ordering`, `epic`, `mdep`,
`drep` and `kappa_pruning` at the classes that learners predict. `top_k` and `random_k`
are the controls.
"""
