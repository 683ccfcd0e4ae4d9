"""Tuning a search space on a target: the plan, the candidates, building and timing them, and the blocks' latencies."""

from tvmfbnet.devices.without_torch import load_tvm_without_torch

load_tvm_without_torch()  # a run that goes on from what is on the disk needs no torch, and its start shall be short
