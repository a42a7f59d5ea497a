"""What every room may use: errors, seeds, files, JSON lines, host names, the order of sums."""
