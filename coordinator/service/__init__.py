"""The coordinator service: forms the group, closes rounds, returns the consensus. Does not import torch.

State machines without clock and socket are `rounds`, `membership` and, over both, `group`; `hub` drives them.
Arithmetic is in `validation` (of publications) and `aggregate` (sums, medians). `store` keeps what must survive the
own death; `streams` and `servicer` are gRPC's side; `server` is the process; `settings` are the operator's decisions.
A relay, in `relay`, hands its own hub to the server; nothing else here knows of relays.
"""

import os


def one_core() -> None:
    """Before numpy is imported: its arithmetic here waits for memory, and threads would only take cores from peers."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
