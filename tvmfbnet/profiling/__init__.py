"""Timing blocks and nets on a device: the timer, the canary, probe networks, active sampling, the speed factor."""

from tvmfbnet.rpc.without_torch import load_tvm_without_torch

load_tvm_without_torch()  # resuming from what is on disk needs no torch, and should start quickly
