"""Apply a network repeatedly to its own outputs: channels, times, and passes of several steps."""
