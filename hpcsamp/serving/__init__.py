"""Commands as forks of a process that has imported Python's packages, which takes seconds.

The server (:mod:`.server`) imports them once and forks a process for each command. The client
(:mod:`.client`) is a small process in the place of the command: it passes on its files, folder,
environment and signals, and ends with the exit code of the command.
"""
