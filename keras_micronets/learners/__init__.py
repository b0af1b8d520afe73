"""Keep learners of one problem in a pool, and predict with all of them."""

from keras_micronets.learners.external import as_learners
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.pool import LearnerPool

__all__ = ["Learner", "LearnerPool", "as_learners"]
