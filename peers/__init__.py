"""One network as one process: everything that a worker runs. Importing the package imports nothing else."""
