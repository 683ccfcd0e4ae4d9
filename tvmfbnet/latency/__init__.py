"""What a net costs on a device: measurements, their journal, the latency table, the regressor for what it lacks."""
