"""The differentiable search: a supernet whose block probabilities are learned under a latency-aware loss."""
