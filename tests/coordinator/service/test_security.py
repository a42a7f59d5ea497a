"""Who is let in, who is not, and who is told why."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from coordinator.certificates import Certificates, make_certs
from coordinator.service.settings import Tls
from peers.common.errors import ConfigError, ExchangeError
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.values import Ticket
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.coordinator.service.processes import Coordinator, coordinator, info, together
from tests.coordinator.service.raw import RawPeer

TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and certificates for 127.0.0.1."""
    return make_certs(tmp_path_factory.mktemp("certs"), ["localhost", "127.0.0.1"])


def secured(certs: Certificates, *, mutual: bool = False) -> dict[str, Any]:
    """Settings with TLS and a token."""
    return {"token": TOKEN, "tls": Tls(str(certs.server), str(certs.server_key), str(certs.ca) if mutual else None)}


def two_join(at: Coordinator, **access: Any) -> list[Ticket]:
    """Two peers that join, publish nothing, and go."""

    def one(place: int) -> Callable[[], Ticket]:
        def live() -> Ticket:
            client = at.client(**access)
            try:
                return client.join(info(place))
            finally:
                client.close()

        return live

    return together(one(0), one(1))


def refusal(at: Coordinator, **access: Any) -> str:
    """What the operator of a peer reads that is not let in."""
    client = StreamClient(Access(at.address, **access))
    try:
        with pytest.raises(ExchangeError) as refused:
            client.join(info(0, window=1.0))
        return str(refused.value)
    finally:
        client.close()


def test_the_certificate_files_are_what_they_should_be(certs: Certificates, tmp_path: Path) -> None:
    """Keys are their owner's alone, the server's certificate names the hosts, the authority's key is nowhere."""
    for key in (certs.server_key, certs.peer_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    server = x509.load_pem_x509_certificate(certs.server.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert sorted(path.name for path in certs.ca.parent.iterdir()) == [
        "ca.pem", "peer.key", "peer.pem", "server.key", "server.pem",
    ]  # fmt: skip
    context = ssl.create_default_context(cafile=str(certs.ca))
    assert context.cert_store_stats()["x509_ca"] == 1
    with pytest.raises(ConfigError, match="holds"):
        make_certs(certs.ca.parent, ["localhost"])
    with pytest.raises(ConfigError, match="--host"):
        make_certs(tmp_path / "new", [])


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
def test_the_right_secrets_open(tmp_path: Path, certs: Certificates, mutual: bool) -> None:
    """Authority, token, and with mutual TLS the peer's own certificate: in."""
    own = {"certificate": str(certs.peer), "key": str(certs.peer_key)} if mutual else {}
    with coordinator(tmp_path, **secured(certs, mutual=mutual)) as at:
        admissions = two_join(at, ca=str(certs.ca), token=TOKEN, **own)
    assert sorted(admission.peers for admission in admissions) == [(0,), (1,)]


def test_wrong_secrets_are_refused_and_each_operator_knows_why(tmp_path: Path, certs: Certificates) -> None:
    """No token, wrong token, wrong authority, plain text: refused, each with its own words, no secret in any."""
    other = make_certs(tmp_path / "other", ["127.0.0.1"])
    with coordinator(tmp_path, **secured(certs)) as at:
        ca = str(certs.ca)
        told = {
            "without the group's token": refusal(at, ca=ca),
            "does not accept this token": refusal(at, ca=ca, token="wrong " * 5),
            "is not one of the authority": refusal(at, ca=str(other.ca), token=TOKEN),
            "speaks TLS": refusal(at, token=TOKEN),
        }
        for words, text in told.items():
            assert words in text
            assert TOKEN not in text
        assert "refused: no token" in at.log
        assert "refused: wrong token" in at.log
        assert TOKEN not in at.log
        assert "wrong wrong" not in at.log


def test_a_peer_without_its_certificate_is_refused_under_mutual_tls(tmp_path: Path, certs: Certificates) -> None:
    """The authority's certificate alone does not open; the text says what may be missing."""
    with coordinator(tmp_path, **secured(certs, mutual=True)) as at:
        assert "may ask for a peer's certificate" in refusal(at, ca=str(certs.ca), token=TOKEN)


def test_tls_towards_plain_text_is_named(tmp_path: Path, certs: Certificates) -> None:
    """A peer with certificates, a coordinator without."""
    with coordinator(tmp_path) as at:
        assert "does not speak TLS" in refusal(at, ca=str(certs.ca))


def test_nothing_there_is_named() -> None:
    """An address where nobody listens."""
    client = StreamClient(Access("127.0.0.1:1"))
    with pytest.raises(ExchangeError, match=r"nothing answers at 127\.0\.0\.1:1"):
        client.join(info(0, window=0.2))
    client.close()


def test_a_stranger_learns_nothing(tmp_path: Path) -> None:
    """Without the token every call ends with a bare UNAUTHENTICATED."""
    with coordinator(tmp_path, token=TOKEN) as at:
        channel = Access(at.address).channel()
        stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
        stream = channel.stream_stream("/consensus.Exchange/Stream")
        calls: list[Callable[[], Any]] = [
            lambda: stub.GetStatus(pb.StatusRequest(), timeout=10),
            lambda: stub.Stop(pb.StopRequest(), timeout=10),
            lambda: stub.Reports(pb.ReportsRequest(), timeout=10),
            lambda: stub.Heartbeat(pb.HeartbeatRequest(), timeout=10),
            lambda: next(stub.WatchStatus(pb.WatchRequest(), timeout=10)),
            lambda: next(stream(iter([b"hello"]), timeout=10)),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                call()
            error: Any = refused.value
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "")
        channel.close()


def test_the_health_service_answers_without_a_secret(tmp_path: Path) -> None:
    """A probe needs no token and learns that the service listens."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with coordinator(tmp_path, token=TOKEN) as at:
        channel = Access(at.address).channel()
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        channel.close()


def test_no_peer_can_speak_for_another(tmp_path: Path) -> None:
    """The group's token is no bearer, a guessed bearer is none, and a bearer opens no Join or Stop."""
    with coordinator(tmp_path) as plain:
        raw = RawPeer(plain, 0)
        for secret in (TOKEN, raw.ticket.bearer[:-1] + "x", ""):
            raw.metadata = (("authorization", f"Bearer {secret}"),)
            for call in (raw.beat, raw.open, raw.leave):
                with pytest.raises(grpc.RpcError) as refused:
                    call()
                error: Any = refused.value
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        raw.close()


def test_joins_are_bounded(tmp_path: Path) -> None:
    """More joins in a minute than allowed: TOO_FAST, with the time to wait."""
    with coordinator(tmp_path, joins_per_minute=3) as at:
        channel = Access(at.address).channel()
        stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
        replies = [stub.Join(pb.JoinRequest(run_id="other"), timeout=10) for _ in range(4)]
        assert [reply.code for reply in replies] == [pb.WRONG_RUN] * 3 + [pb.TOO_FAST]
        assert 0 < replies[3].retry_after <= 20
        channel.close()


def test_the_bearer_is_kept_as_a_hash_only(tmp_path: Path) -> None:
    """Neither the store nor the log holds a bearer."""
    with coordinator(tmp_path) as at:
        raw = RawPeer(at, 0)
        raw.close()
        files = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
        assert b"127.0.0.1" not in files
        assert raw.ticket.bearer.encode() not in files
        assert raw.ticket.bearer not in at.log
