"""A run: assembled from a configuration; its folder, checkpoints and provenance."""
