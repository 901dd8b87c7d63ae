"""Comparison with NumPyro: the training step of small networks on one core."""
