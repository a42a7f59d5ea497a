"""Counters of one coordinator, for Prometheus and for the status."""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from coordinator.service.rounds import SettledRound
from protos.consensus_pb2 import OK, ReplyCode

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counts of one coordinator since it started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.refusals: Tally[str] = Tally()
        self.closed = 0
        self.voided = 0
        self.last_seconds = 0.0
        self.received = 0
        """Bytes of tensors accepted."""
        self.sent = dict.fromkeys(("stream", "lane", "shared"), 0)
        """{way: bytes of tensors sent}."""
        self.waits: defaultdict[int, float] = defaultdict(float)
        """{lowest peer of a worker: seconds that the others waited for it}."""
        registry = self.registry
        registry.register(_Plain(self))
        self._seconds = Histogram(
            "consensus_round_seconds", "From a round's opening to its end.", registry=registry, buckets=_SECONDS
        )
        self._refused = Counter("consensus_refused", "Refused, by reply code.", ["code"], registry=registry)
        self._expelled = Counter("consensus_expelled", "Workers expelled.", registry=registry)
        self.members = Gauge("consensus_members", "Peers that are members.", registry=registry)
        self.epoch = Gauge("consensus_epoch", "Membership epoch.", registry=registry)
        self.round = Gauge("consensus_round", "The open round, or the next to open.", registry=registry)
        self.strangers = Counter("consensus_unauthenticated", "Calls turned away.", ["reason"], registry=registry)

    def settled(self, settled: SettledRound) -> None:
        """A round is over."""
        closed = settled.code == OK
        self.closed += closed
        self.voided += not closed
        self.last_seconds = settled.seconds
        self._seconds.observe(settled.seconds)
        for worker, waited in settled.waited.items():
            self.waits[min(settled.members[worker])] += waited
        for code in settled.answers.values():
            if closed and code != OK:
                self.refused(code)

    def refused(self, code: ReplyCode) -> None:
        """Something was refused."""
        name = ReplyCode.Name(code)
        self.refusals[name] += 1
        self._refused.labels(name).inc()

    def expelled(self) -> None:
        """A worker was expelled."""
        self._expelled.inc()


class _Plain(Collector):
    """What every round and message adds to, from plain numbers: a counter takes its lock and its label each time.

    Args:
        metrics: whose numbers they are.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See `Collector`."""
        metrics = self._metrics
        rounds = {"closed": metrics.closed, "void": metrics.voided}
        yield _counter("consensus_rounds", "Rounds settled, by result.", "result", rounds)
        yield _counter(
            "consensus_waited_seconds", "Seconds that the others waited for a peer.", "peer", dict(metrics.waits)
        )
        yield CounterMetricFamily("consensus_received_bytes", "Bytes of tensors accepted.", metrics.received)
        yield _counter("consensus_sent_bytes", "Bytes of tensors sent.", "way", metrics.sent)


def _counter(name: str, text: str, label: str, values: Mapping[Any, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family
