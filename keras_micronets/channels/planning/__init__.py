"""Which channels to keep: scores, budgets, and the plan that comes of them."""

from keras_micronets.channels.planning.plan import Plan, PlanRow
