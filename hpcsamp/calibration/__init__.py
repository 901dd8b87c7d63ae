"""Mathematics of recalibration and conformal prediction: pure functions of arrays.

``quantile`` computes the threshold of split conformal prediction, ``intervals`` intervals of
numeric targets, ``sets`` sets of classes, ``adaptive`` online thresholds for time series, and
``scaling`` maps of class probabilities. Nothing here depends on runs, files or ranks.
"""
