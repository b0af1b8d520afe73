"""Learners, and the folder that keeps them and their predictions."""

from keras_micronets.learners.external import as_learners
from keras_micronets.learners.learner import Learner
from keras_micronets.learners.pool import LearnerPool
