"""Simulated devices: an emulated device server whose clock is a model of a core.

``cores`` describes the cores, ``block_cycles`` has llvm-mca say how many cycles a block of instructions takes, and
``cycle_server`` answers the emulator's questions for them.
"""
