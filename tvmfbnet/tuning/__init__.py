"""Tuning a search space on a target: the plan, the candidates, building and timing them, and the blocks' latencies."""
