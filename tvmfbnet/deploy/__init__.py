"""Shipping the found net: a package with its library, the parity gate, and its latency against other runtimes."""
