"""How much learners differ: every two of them, or all together.

Formulas are those of Kuncheva & Whitaker, "Measures of Diversity in Classifier
Ensembles", Machine Learning, 2003, unless a function says otherwise. All but
`disagreement` and `kappa` look only at who is right on which sample. Where a formula is
0/0, the function says what it returns; no measure is ever NaN.
"""

from keras_micronets.selection.diversity.ensembles import (
    entropy,
    generalized_diversity,
    kohavi_wolpert,
)
from keras_micronets.selection.diversity.pairwise import (
    correlation,
    disagreement,
    double_fault,
    kappa,
    q_statistic,
)

__all__ = [
    "correlation",
    "disagreement",
    "double_fault",
    "entropy",
    "generalized_diversity",
    "kappa",
    "kohavi_wolpert",
    "q_statistic",
]
