"""Training: the loop, the agreement of the ranks on a step, preemption, progress."""
