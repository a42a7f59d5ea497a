"""Data sets, and the batch of each round."""
