"""Target definitions: what to compile for, with which toolchain, and how to connect to the device and measure on it."""
