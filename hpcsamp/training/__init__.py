"""Training from a configuration: the loop, checkpoints, preemption, memory, provenance."""
