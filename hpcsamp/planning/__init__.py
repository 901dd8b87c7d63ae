"""Predict the time of a step on any number of ranks with an analytic performance model.

``machine``: a site's hardware (published or measured); ``workload``: the work of a run; ``network``
and ``jitter``: the formulas; ``rates``: seconds from work; ``model``: the time of a step on one
grid; ``grid_choice``: the best grid and what limits it; ``simulate``: the same step by step;
``fit``: the model fitted to measured records.
"""
