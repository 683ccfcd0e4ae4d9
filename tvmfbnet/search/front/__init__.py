"""Pareto mode: one search gives a front of nets, the most accurate up to each of several latency bounds."""
