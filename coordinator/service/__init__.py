"""The coordinator: forms the group, closes rounds, returns consensus. Imports neither torch nor pydantic.

Pure machines, which know no clock and no socket, are `rounds`, `membership` and, over both, `group`. Numbers are in
`admission` (the gate) and `aggregate` (sums, medians). `hub` drives the machines; `store` keeps what must survive the
coordinator's own death; `streams` and `servicer` are gRPC's side; `server` is the process; `settings` what it was told.
"""

import os


def one_core() -> None:
    """Before numpy is imported: its arithmetic here waits for memory, and threads would only take cores from peers."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
