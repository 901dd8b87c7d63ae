"""The tables of a configuration, a file each: keys, types, defaults, meaning, and marks."""
