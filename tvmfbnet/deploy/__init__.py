"""Deploying the found net: a package with its library, the parity check, and its latency beside other runtimes."""
