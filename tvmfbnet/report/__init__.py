"""The report of a run: figures and one self-contained HTML page. Reads the run folder only; no torch, no tvm."""
