"""How long a step will take on ranks that are not there yet: an analytic model of performance.

``machine`` what a place has (published or measured), ``workload`` what a run needs, ``network`` and
``jitter`` the formulas, ``rates`` seconds from work, ``model`` the time of a step on one grid,
``choice`` the best grid and what limits it, ``simulate`` the same step by step, ``fit`` the model
against measured records.
"""
