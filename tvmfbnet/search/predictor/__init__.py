"""An accuracy predictor of archs and what is chosen by it: features, a Gaussian process, candidates, the optimiser.

Plain numpy and scipy: nothing here loads torch or sees an image.
"""
