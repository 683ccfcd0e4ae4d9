"""Auto-tuning kernels: the schedule space and its templates, the cost model, the engine, trial log and database."""

from tvmfbnet.rpc.without_torch import load_tvm_without_torch

load_tvm_without_torch()  # what resumes from what is on the disk needs no torch, and its start shall be short
