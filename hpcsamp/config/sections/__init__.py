"""The tables of a configuration, one per file: keys, types, defaults, descriptions and marks."""
