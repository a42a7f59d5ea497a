"""One report for all tests that look at a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.experiment.report.command import write_report
from tests.coordinator.experiment.report import made


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an experiment with everything in it and of a sweep; their page is in `report`."""
    folder = tmp_path_factory.mktemp("whole")
    home = made.experiment(folder, failed=made.FAILED)
    made.recipes(home)
    write_report([home, made.sweep(folder, "asha")], folder / "report")
    return folder
