"""Predict the time of a step on any number of ranks with an analytic performance model.

:mod:`.machine` describes a site's hardware (published or measured), and :mod:`.workload` the work
of a run. :mod:`.network` and :mod:`.jitter` contain the formulas for exchanges and for waiting.
:mod:`.rates` converts work to seconds, and :mod:`.model` predicts the time of a step on one grid.
:mod:`.grid_choice` finds the best grid and its limiting factor, :mod:`.simulate` simulates steps
rank by rank, and :mod:`.fit` fits the model to measured steps.
"""
