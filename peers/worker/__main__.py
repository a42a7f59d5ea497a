"""`python -m peers.worker`: the process that hosts one peer, or several."""

import sys

from peers.worker.worker import main

if __name__ == "__main__":
    sys.exit(main())
