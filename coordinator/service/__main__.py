"""`python -m coordinator.service --settings FILE.json`: a coordinator as a process, for tests and tools."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from coordinator.service import one_core
from coordinator.service.logs import set_up
from peers.common.errors import ConfigError, PeersError

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(arguments: list[str] | None = None) -> int:
    """Serve; the exit code: 0 ended or stopped, 2 settings or state folder, 3 the run ended too early."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.service", description="Run a coordinator.")
    parser.add_argument("--settings", required=True, help="JSON file; names as in coordinator/service/settings.py")
    parser.add_argument("--bind", help="HOST:PORT instead of the file's")
    parser.add_argument("--state", help="state folder instead of the file's")
    parser.add_argument("--upstream", help="HOST:PORT of the coordinator above, in plain text; this one is a relay")
    parser.add_argument("--address-file", help="gets HOST:PORT as soon as the coordinator listens")
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    given = parser.parse_args(arguments)
    one_core()
    from coordinator.service.settings import ServiceSettings  # brings numpy, too

    try:
        values = _read(given.settings)
        values.update({name: getattr(given, name) for name in ("bind", "state") if getattr(given, name)})
        settings = ServiceSettings.model_validate_json(json.dumps(values))
        set_up(given.log_level, as_json=given.log_json, run=settings.run_id, text=TEXT)
        from coordinator.service.server import serve  # imports gRPC, after the log is set up

        if not given.upstream:
            return serve(settings, given.address_file)
        from coordinator.service.relay.start import serve_relay
        from peers.transport.access import Access

        return serve_relay(settings, Access(given.upstream, token=settings.token), given.address_file)
    except PeersError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code


def _read(path: str) -> dict[str, object]:
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"settings {path} cannot be read: {exc}; expected a JSON object") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"settings {path} hold a {type(values).__name__}, expected a JSON object")
    return values


if __name__ == "__main__":
    sys.exit(main())
