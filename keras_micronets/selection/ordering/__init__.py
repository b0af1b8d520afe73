"""Ways to choose learners one after the other, and the controls they have to beat."""
