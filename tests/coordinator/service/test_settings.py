"""Settings are refused as a whole, each contradiction with its reason."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from coordinator.service.settings import ServiceSettings, Tls
from peers.draws import Rule
from peers.errors import ConfigError
from tests.coordinator.service.settled import settings

TOKEN = "t" * 32
TLS = Tls("server.pem", "server.key")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"heartbeat": 11.0}, "heartbeat is 11.0 s, longer than round_deadline"),
        ({"round_deadline": 61.0}, "round_deadline is 61.0 s, longer than join_window"),
        ({"join_window": float("inf")}, "join_window is inf"),
        ({"heartbeat": 0.0}, "heartbeat is 0.0, expected a positive number"),
        ({"min_peers": 3}, "min_peers is 3, more than the 2 peers of the group"),
        ({"max_peers": 1}, "max_peers is 1, expected 2"),
        ({"quorum": 0.0}, "quorum is 0.0"),
        ({"shape": (0, 4)}, "shape is (0, 4)"),
        ({"rule": Rule("mode", 0)}, "rule is 'mode'"),
        ({"rule": Rule("trimmed_mean", 0, q=0.5)}, "both ends are cut"),
        ({"wires": ("float8",)}, "wires are ['float8']"),
        ({"bind": "localhost"}, "expected HOST:PORT"),
        ({"bind": "0.0.0.0:7070"}, "which others can reach"),
        ({"bind": "0.0.0.0:7070", "token": TOKEN}, "which others can reach"),
        ({"bind": "0.0.0.0:7070", "tls": TLS}, "which others can reach"),
        ({"token": "short"}, "token has fewer than 16 characters"),
        ({"run_id": ""}, "run_id has 0 characters"),
        ({"norm_bound": float("nan")}, "norm_bound is nan"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], text: str) -> None:
    """Each rule has a sentence that says what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert text in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    """Three mistakes, three lines."""
    with pytest.raises(ConfigError) as caught:
        settings(rounds=0, quorum=2.0, heartbeat=11.0)
    assert str(caught.value).count("\n- ") == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"bind": "0.0.0.0:0", "token": TOKEN, "tls": TLS},
        {"bind": "0.0.0.0:0", "insecure": True},
        {"bind": "[::1]:0"},
        {"bind": "localhost:0"},
    ],
)
def test_open_addresses_need_certificates_and_a_token_or_the_operators_word(changes: dict[str, Any]) -> None:
    """Loopback, both secrets, or `insecure`: accepted."""
    assert settings(**changes).bind == changes["bind"]


def test_secrets_are_not_shown() -> None:
    """The token is in no text made of the settings."""
    assert TOKEN not in repr(settings(token=TOKEN))


def test_settings_come_from_json_and_unknown_names_are_refused() -> None:
    """A JSON object of the fields gives the same value; a typo or a missing name is an error."""
    made = settings(tls=TLS)
    values = {**asdict(made), "shape": list(made.shape), "wires": list(made.wires)}
    assert ServiceSettings.from_json(values) == made
    with pytest.raises(ConfigError, match="have no heart_beat"):
        ServiceSettings.from_json({**values, "heart_beat": 1.0})
    del values["rounds"]
    with pytest.raises(ConfigError, match="rounds"):
        ServiceSettings.from_json(values)


def test_the_digest_is_of_what_decides_the_numbers() -> None:
    """Another seed is another run; another address is not."""
    assert settings(rule=Rule("mean", 1)).digest != settings().digest
    assert settings(bind="127.0.0.1:9999").digest == settings().digest
