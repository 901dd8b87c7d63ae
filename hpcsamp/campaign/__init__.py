"""Campaigns: many runs from one file, planned, rendered as job scripts, submitted, and collected.

A campaign file says which keys of a configuration take which values (:mod:`.spec`); that makes
points (:mod:`.points`), each in a folder named by a hash of what determines it. Points of equal
resources become one job array, an ordinary script that people can read and run by hand
(:mod:`.render`). What a point does is the name of an empty file (:mod:`.store`), so that one
listing of a folder tells of all of them. Schedulers lie in :mod:`.schedulers`, one a file; what is
known of centres lies in ``sites/*.toml``.
"""
