"""Networks that a project begins with, one file for each kind of inputs."""
