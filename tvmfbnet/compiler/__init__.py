"""Compiles a torch module to a library for a target: ONNX export, lowering to fused kernels, tuned builds."""
