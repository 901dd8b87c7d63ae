"""NumPyro as a peer: the training step of small networks beside XLA's, on one core."""
