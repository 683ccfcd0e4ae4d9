"""YAML recipes of whole runs, each headed by a comment that explains it."""
