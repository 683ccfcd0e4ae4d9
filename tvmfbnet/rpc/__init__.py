"""TVM RPC: the tracker, the Python device server, and jobs on a device in worker processes with a deadline."""
