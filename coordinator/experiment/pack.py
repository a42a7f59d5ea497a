"""`python -m coordinator.experiment.pack`: one process that runs one group after another, for the runner.

Starting a process and importing torch takes longer than a small group's whole run. A line of standard input is a job:

    {"config": PATH of a run's config.yaml, "supervised": false, "analyse": true, "transfer": null or a section `data`}

and a line of standard output its end: {"code": exit code, 0 as well where it was stopped and saved}. All else that a
job says goes to its own log. The end of the input, or a signal once the job has saved itself, ends the process; so does
an error that nobody foresaw, with its traceback in the job's log.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from coordinator.experiment import supervised
from peers.common.errors import PeersError
from peers.config import loading as configfile
from peers.config.schema import Config, DataConfig
from peers.runs.run_folder import RunFolder
from peers.worker.placement import Placement, compute_threads
from peers.worker.process import StopSignal, end_with_parent, set_up_logging
from peers.worker.worker import work

logger = logging.getLogger("coordinator.experiment.pack")


def main() -> int:
    """Run the jobs of standard input."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    stop = StopSignal()
    stop.install()
    end_with_parent()
    for line in sys.stdin:
        job = json.loads(line)
        config = configfile.load(job["config"])
        with _output_to(RunFolder.of(config).logs / "worker-0.stderr"):
            code = _run(config, job, stop)
        replies.write(json.dumps({"code": code}) + "\n")
        if stop.requested():
            break
    return 0


def _run(config: Config, job: Mapping[str, Any], stop: StopSignal) -> int:
    """One job; returns its exit code."""
    code = 0
    if not RunFolder.of(config).summary.is_file():
        run = supervised.work if job["supervised"] else work
        code = run(config, Placement(), "resume", stop)
    if code == 0 and job["analyse"] and not stop.requested():
        from coordinator.experiment.analysis.run import analyse  # brings libraries that few groups need

        # As training leaves it: sums depend on the number of threads, and an analysis that is made up for after a break
        # must give the same bytes as one that follows its run in the same process.
        torch.set_num_threads(compute_threads(config.group.threads, config.group.peers or 1))
        try:
            analyse(config, None if job["transfer"] is None else DataConfig.model_validate(job["transfer"]))
        except PeersError as exc:
            logger.error("%s", exc)
            return exc.exit_code
    return code


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all that this process writes to a file, what libraries and the interpreter's last words are included."""
    root = logging.getLogger()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    set_up_logging(Placement())
    try:
        yield
    except BaseException:
        logger.exception("nobody foresaw this")
        raise
    finally:
        sys.stdout.flush()
        for handler in root.handlers[1:]:  # the job's own log file
            root.removeHandler(handler)
            handler.close()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


if __name__ == "__main__":
    sys.exit(main())
