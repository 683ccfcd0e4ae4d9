"""The latency of nets on a device: measurements, their journal, the latency table, and the regressor that fills it."""
