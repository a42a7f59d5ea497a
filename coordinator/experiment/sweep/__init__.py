"""Sweeps: settings varied over a grid, at random, or by ASHA, a group for each point and seed."""
