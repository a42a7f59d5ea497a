"""Experiments: arms x seeds, and what can be said of them."""
