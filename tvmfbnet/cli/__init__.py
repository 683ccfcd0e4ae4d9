"""The command line: one file a command. Each parses, calls one function of another package and prints.

Nothing heavy (torch, tvm, xgboost, matplotlib) is imported at module level here, so ``--help`` is instant.
"""
