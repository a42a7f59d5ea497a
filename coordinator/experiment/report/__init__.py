"""The report: one self-contained HTML page of experiments and sweeps, with its figures beside it."""
