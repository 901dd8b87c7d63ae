"""Training: the loop, agreement of the ranks in each step, preemption, progress."""
