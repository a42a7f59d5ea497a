"""Fixtures of the analysis' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.groups import one_thread


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small matrices on several threads spend their time waiting where the cores are shared."""
    with one_thread():
        yield
