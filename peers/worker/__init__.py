"""The worker process: `python -m peers.worker`."""
