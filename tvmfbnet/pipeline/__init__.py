"""Whole runs: the recipe and its stages, tuning and timing a space, and the closed loop on the latency target."""
