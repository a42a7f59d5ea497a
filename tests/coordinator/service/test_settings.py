"""Settings are refused as a whole, each contradiction with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.service.advertised import advertised
from coordinator.service.from_config import settings_of
from coordinator.service.settings import ServiceSettings, Tls
from peers.common.errors import ConfigError
from peers.common.hosts import own_address
from peers.config.loading import parse
from peers.method.target_selection import TargetSelection
from tests.coordinator.service.settled import settings

TOKEN = "t" * 32
TLS = Tls("server.pem", "server.key")
OPEN = {"bind": "0.0.0.0:0", "insecure": True}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"heartbeat": 11.0}, "heartbeat is 11.0 s, longer than round_deadline"),
        ({"round_deadline": 61.0}, "round_deadline is 61.0 s, longer than join_window"),
        ({"join_window": float("inf")}, "join_window is inf"),
        ({"heartbeat": 0.0}, "heartbeat is 0.0: expected greater than 0"),
        ({"min_peers": 3}, "min_peers is 3, more than the 2 peers of the group"),
        ({"max_peers": 1}, "max_peers is 1, expected 2"),
        ({"quorum": 0.0}, "quorum is 0.0"),
        ({"shape": (0, 4)}, "shape.0 is 0"),
        ({"rule": TargetSelection("mode", 0)}, "rule is 'mode'"),
        ({"rule": TargetSelection("trimmed_mean", 0, q=0.5)}, "both ends are cut"),
        ({"wires": ("float8",)}, "wires.0 is 'float8'"),
        ({"bind": "localhost"}, "expected HOST:PORT"),
        ({"bind": "0.0.0.0:7070"}, "which others can reach"),
        ({"bind": "0.0.0.0:7070", "token": TOKEN}, "which others can reach"),
        ({"bind": "0.0.0.0:7070", "tls": TLS}, "which others can reach"),
        ({"advertise": "node1:99999"}, "advertise is 'node1:99999': expected HOST or HOST:PORT"),
        ({"advertise": ":7070"}, "advertise is ':7070': expected HOST or HOST:PORT"),
        ({"advertise": "node1:7070"}, "give bind the port that peers are led to"),
        ({"token": "short"}, "token has fewer than 16 characters"),
        ({"run_id": ""}, "run_id is ''"),
        ({"norm_bound": float("nan")}, "norm_bound is nan"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], text: str) -> None:
    """Each rule has a sentence that says what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert text in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    """Three values out of range, three lines."""
    with pytest.raises(ConfigError) as caught:
        settings(rounds=0, quorum=2.0, heartbeat=0.0)
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
    values = json.loads(made.model_dump_json())
    assert ServiceSettings.model_validate_json(json.dumps(values)) == made
    with pytest.raises(ConfigError, match="heart_beat: Extra inputs are not permitted"):
        ServiceSettings.model_validate_json(json.dumps({**values, "heart_beat": 1.0}))
    del values["rounds"]
    with pytest.raises(ConfigError, match="rounds: Field required"):
        ServiceSettings.model_validate_json(json.dumps(values))


def test_the_digest_is_of_what_decides_the_numbers() -> None:
    """Another seed is another run; another address is not."""
    assert settings(rule=TargetSelection("mean", 1)).digest != settings().digest
    assert settings(bind="127.0.0.1:9999").digest == settings().digest
    assert settings(advertise="node1").digest == settings().digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "127.0.0.1:41234"),
        ({"bind": "[::1]:0"}, "[::1]:41234"),
        ({"bind": "localhost:0", "advertise": "localhost"}, "localhost:41234"),
        ({"bind": "127.0.0.1:7070", "advertise": "127.0.0.1:17070"}, "127.0.0.1:17070"),
        ({**OPEN, "bind": "10.0.0.5:7070"}, "10.0.0.5:41234"),
        ({**OPEN, "advertise": "10.0.0.5"}, "10.0.0.5:41234"),
        ({**OPEN, "bind": "0.0.0.0:7070", "advertise": "10.0.0.5:17070"}, "10.0.0.5:17070"),
        ({**OPEN, "advertise": "2001:db8::5"}, "[2001:db8::5]:41234"),
        ({**OPEN, "interface": "lo"}, "127.0.0.1:41234"),
        ({**OPEN, "bind": "[::]:0", "interface": "lo"}, "127.0.0.1:41234"),
    ],
)
def test_what_peers_are_told(changes: dict[str, Any], told: str) -> None:
    """As bound, unless it is said otherwise; of a wildcard the interface's address. The port is the one that it got."""
    assert advertised(settings(**changes)).at(41234) == told


def test_of_a_wildcard_peers_are_told_this_machines_own_address() -> None:
    """No interface is named: the one of the default route, never the wildcard itself."""
    assert advertised(settings(**OPEN)).host == own_address()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"advertise": "no-such-host.invalid"}, "coordinator.advertise = 'no-such-host.invalid' does not resolve: "),
        ({**OPEN, "advertise": "localhost"}, "coordinator.advertise = 'localhost' is "),
        ({**OPEN, "interface": "eth99"}, "exchange.interface = 'eth99' is not on this machine; it has "),
    ],
)
def test_what_would_lead_peers_astray_is_refused(changes: dict[str, Any], text: str) -> None:
    """A name that is unknown, or loopback while others are to come; an interface that is not there."""
    with pytest.raises(ConfigError) as caught:
        advertised(settings(**changes))
    assert str(caught.value).startswith(text)


def test_the_configuration_says_what_peers_are_told() -> None:
    """coordinator.advertise and exchange.interface reach the service."""
    asked = {"coordinator": {"advertise": "node1"}, "exchange": {"interface": "eth0"}}
    made = settings_of(parse(asked))
    assert (made.advertise, made.interface) == ("node1", "eth0")
