"""The posterior predictive: its distribution, metrics and files."""
