"""Initial networks of a project, one file for each kind of inputs."""
