"""Relays: a coordinator below another one, which sums for its own members."""
