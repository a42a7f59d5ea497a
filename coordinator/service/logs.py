"""The coordinator's log: text for a reader, or one JSON object a line for a collector.

    time      ISO 8601, UTC
    level     DEBUG, INFO, WARNING, ERROR
    logger    the module that speaks
    message   the same sentence as in the text
    run       name of the run, as soon as it is known
    round     the round that the event is about; for joins and departures the one that is open, or opens next
    peers     ids of the peers that the event is about; for a void round all that it opened with
    worker    number of the membership, as in `coordinator status`
    code      reply code that was given, a name of protos/consensus.proto; UNAUTHENTICATED for strangers
    exception the traceback

The last six stand where the event has them. Secrets are in none: who logs takes care of that. gRPC's core writes text
of its own to standard error, a line for each handshake that fails, as often as a stranger likes: it is silent, unless
GRPC_VERBOSITY is set.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from coordinator.service.limits import Bucket

TEXT = "%(asctime)s %(levelname)s coordinator: %(message)s"
LINES, BURST = 1.0, 20.0
"""Records of gRPC's a second in the long run, and at once."""
FIELDS = ("run", "round", "peers", "worker", "code")
"""What a log call may say in `extra`."""


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON, ASCII only.

    Args:
        run: for each line that does not name a run itself.
    """

    def __init__(self, run: str | None = None) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        """See the module."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        values = {"run": self._run, **vars(record)}
        line.update({name: values[name] for name in FIELDS if values.get(name) is not None})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Sparing(logging.Filter):
    """Lets so many records of gRPC's pass: anybody can send what it logs with a traceback, and must not fill the disk.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._bucket = Bucket(LINES, BURST, clock())
        self._held = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is kept; it tells how many before it were not."""
        if record.name.partition(".")[0] != "grpc":
            return True
        if self._bucket.take(self._clock()):
            self._held += 1
            return False
        if self._held:
            record.msg, record.args = f"{record.getMessage()} (and {self._held} more since the last)", ()
            self._held = 0
        return True


def set_up(level: str, *, as_json: bool, run: str | None = None, text: str = TEXT) -> None:
    """Log to standard error; may be called again, once the run's name is known. Before gRPC is imported.

    Args:
        level: least level that is logged.
        as_json: one JSON object a line, warnings of libraries included.
        run: name of the run.
        text: format of the lines otherwise.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.captureWarnings(as_json)
    handler = logging.StreamHandler()
    handler.addFilter(Sparing())
    handler.setFormatter(JsonFormatter(run) if as_json else logging.Formatter(text))
    logging.basicConfig(level=level, handlers=[handler], force=True)
