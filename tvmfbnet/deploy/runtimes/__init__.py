"""Runtimes that run a found net, to compare their latencies: our package, and others on the same machine."""
