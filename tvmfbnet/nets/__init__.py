"""Torch modules: the candidate blocks, a net built from an arch, the supernet that mixes all candidates."""
