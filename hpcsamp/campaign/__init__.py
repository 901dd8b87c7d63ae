"""Campaigns: plan many runs from one file, render and submit job scripts, collect the results.

A campaign file lists values for keys of a configuration (:mod:`.spec`). Their combinations are the
points (:mod:`.points`), each with a folder named by a hash of everything that determines its
results. Points with equal resources become one job array, an ordinary script that people can read
and run by hand (:mod:`.render`). The state of a point is the name of an empty file
(:mod:`.store`), so that one listing of a folder shows all states. Schedulers are in
:mod:`.schedulers`, one file each; presets for computing centres are in ``sites/*.toml``.
"""
