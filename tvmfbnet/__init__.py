"""tvmfbnet finds the most accurate ConvNet that meets a latency target on a real device."""

__version__ = "0.1.0"
