"""The folder of a run: checkpoints, journals, metrics, snapshots, the summary."""
