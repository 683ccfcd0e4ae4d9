"""Where latency tables come from: one module per kind of source, and the one path from a source to a finished table."""
