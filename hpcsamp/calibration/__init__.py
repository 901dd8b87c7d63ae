"""Mathematics of recalibration and conformal prediction: pure functions of arrays.

``quantile`` has the level of split conformal prediction, ``intervals`` those of values, ``sets``
those of classes, ``adaptive`` the online form for series, and ``scaling`` the maps of class
probabilities. Nothing here knows of runs, files or ranks.
"""
