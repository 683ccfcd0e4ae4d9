"""What `benchmarks/run.py` consists of: the list of benchmarks, running them, their records, comparison and page."""
