"""Errors that a user may see, each with the exit code of the process that it ends.

    PeersError                     1   anything that was foreseen; its text is for the user, no traceback is shown
    |-- ConfigError                2   the configuration, a flag, or a combination of them
    |-- DataError                  2   images missing, damaged, or too few
    |-- RunFolderError             2   the folder of the run cannot be used as asked
    |-- CheckpointError            2   a checkpoint is damaged or belongs to another configuration
    |-- ExchangeError              3   the group could not exchange: a peer was lost, a time ran out
    |   `-- DisagreementError      3   members see different batches, data or configurations
    `-- DivergedError              4   a peer produced non-finite values too many rounds in a row

Exit code 0 is a run that ended or was asked to stop and saved; 1 is an error nobody foresaw, with its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PeersError(Exception):
    """Base of the errors whose text is written for the user."""

    exit_code = 1


class ConfigError(PeersError):
    """The configuration is wrong; the text lists every problem."""

    exit_code = 2


class DataError(PeersError):
    """The images are missing, damaged, or do not fit the configuration."""

    exit_code = 2


class RunFolderError(PeersError):
    """The folder of the run cannot be created, or holds another run."""

    exit_code = 2


class CheckpointError(PeersError):
    """A checkpoint is damaged, or belongs to another configuration."""

    exit_code = 2


class ExchangeError(PeersError):
    """The group could not exchange outputs."""

    exit_code = 3


class DisagreementError(ExchangeError):
    """Members of the group do not see the same batch, data or configuration."""


class DivergedError(PeersError):
    """A peer produced non-finite values for too many rounds in a row."""

    exit_code = 4


def first_problem(error: ValidationError) -> str:
    """Field and message of the first problem that pydantic found; the message alone where it is all of the value."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
