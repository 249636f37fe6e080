"""The ladder: the same draws give the same numbers as fastai, PyTorch and the papers' code."""
