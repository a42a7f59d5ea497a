"""Basics that all rooms use: errors, seeds, files, JSON lines, host names, the order of sums."""
