"""Target definitions: what to compile for, with which toolchain, how to reach the device and how to measure on it."""
