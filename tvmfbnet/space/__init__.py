"""What may be searched: layers, candidate blocks, archs, and their parameter and MAC counts. No torch, no tvm."""
