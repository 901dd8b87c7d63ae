"""hpcsamp."""
