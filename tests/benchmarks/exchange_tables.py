"""What the exchange benchmark found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.exchange_groups import Measured
from tests.benchmarks.exchange_rounds import Setting
from tests.benchmarks.measure import Figure, Table, over

YARDSTICK = "gloo"
FLOORS = {"stream": "bare TCP", "shared memory": "bare shared memory"}
"""What carries the same payload over the same transport and does nothing else."""
WITH_SPREAD = ("stream", "shared memory")
USUAL = "[256, 512]"
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """All passes of one number of peers and one payload.

    Attributes:
        setting: number and payload.
        sets: of cases whose passes took turns, {case: its passes}, each with the yardstick.
    """

    setting: Setting
    sets: Sequence[Mapping[str, Sequence[Measured]]]

    @property
    def cases(self) -> list[str]:
        """All, the yardstick once and first."""
        return list(dict.fromkeys(case for some in self.sets for case in some))

    def seconds(self, case: str) -> Figure:
        """Time of a round."""
        return Figure.of([each.seconds for each in self._set(case)[case]])

    def over(self, case: str, other: str) -> Figure:
        """Time of a round, relative to that of another case in the same set."""
        here = self._set(case)
        return over([each.seconds for each in here[case]], [each.seconds for each in here[other]])

    def median(self, case: str, of: Callable[[Measured], float | None]) -> float | None:
        """Of all passes; None where there is nothing to measure."""
        values = [value for value in map(of, self._set(case)[case]) if value is not None]
        return Figure.of(values).median if values else None

    def _set(self, case: str) -> Mapping[str, Sequence[Measured]]:
        return next(some for some in self.sets if case in some)


def tables(cells: Sequence[Cell]) -> list[Table]:
    """All for which something was measured."""
    usual = [cell for cell in cells if cell.setting.payload == USUAL]
    found = [relative(cells), milliseconds(usual), floors(cells), costs(usual)]
    return [table for table in found if table.rows]


def relative(cells: Sequence[Cell]) -> Table:
    """Against the yardstick."""
    cases = [case for case in cells[0].cases if case != YARDSTICK]
    rows = []
    for cell in cells:
        ratios = {case: cell.over(case, YARDSTICK) for case in cases}
        texts = [it.text() if case in WITH_SPREAD else f"{it.median:.2f}" for case, it in ratios.items()]
        rows.append([cell.setting.payload, str(cell.setting.peers), *texts])
    note = (
        "Median over passes of a round's time over that of gloo's all_reduce in the same pass, with quartiles where "
        "a pair is in parentheses; below 1 is faster than gloo."
    )
    return Table("Time of a round, relative to gloo", note, ["outputs", "peers", *cases], rows)


def milliseconds(cells: Sequence[Cell]) -> Table:
    """At the usual payload."""
    cases = cells[0].cases if cells else []
    rows = [[case, *(cell.seconds(case).text(2, 1000) for cell in cells)] for case in cases]
    note = "From publishing to the sum, as a peer sees it: median over passes, with quartiles."
    columns = ["case", *(f"{cell.setting.peers} peers" for cell in cells)]
    return Table(f"Milliseconds of a round at {USUAL} float32", note, columns, rows)


def floors(cells: Sequence[Cell]) -> Table:
    """Against what the transport costs by itself."""
    pairs = {case: floor for case, floor in FLOORS.items() if {case, floor} <= set(cells[0].cases)}
    rows = []
    for cell in cells if pairs else []:
        texts = [cell.over(case, floor).text(1) for case, floor in pairs.items()]
        rows.append([cell.setting.payload, str(cell.setting.peers), *texts])
    note = "The same star without framing, checks, receipts, a record on disk or membership; median with quartiles."
    columns = ["outputs", "peers", *(f"{case} / {floor}" for case, floor in pairs.items())]
    return Table("Time of a round, relative to the bare transport", note, columns, rows)


def costs(cells: Sequence[Cell]) -> Table:
    """Processor time, memory and traffic at the usual payload."""
    rows = [
        [case, *(_cpu(cell, case) for cell in cells), *_memory_and_traffic(cells[-1], case)]
        for case in (cells[-1].cases if cells else [])
    ]
    note = (
        "Milliseconds of processor time for each round: of what stands between the peers (coordinator, server, actor) "
        "/ of one peer. The rest is of the last column's peers: largest resident memory, MiB, of the same two (a "
        "peer's has torch in it, except Ray's); and, of all peers together, MiB for each round through loopback and "
        "laid down in shared memory."
    )
    columns = ["case", *(f"{cell.setting.peers} peers" for cell in cells)]
    columns += ["memory", "loopback", "shared"]
    return Table(f"Processor time, memory and traffic at {USUAL} float32", note, columns, rows)


def _cpu(cell: Cell, case: str) -> str:
    between, peer = (cell.median(case, of) for of in (lambda it: it.server_cpu, lambda it: it.peer_cpu))
    return f"{_text(between, 1000)} / {_text(peer, 1000)}"


def _memory_and_traffic(cell: Cell, case: str) -> list[str]:
    between, peer = (cell.median(case, of) for of in (lambda it: it.server_peak, lambda it: it.peer_peak))
    loopback = cell.median(case, lambda it: it.loopback)
    memory = f"{_text(between, 2**-20, 0)} / {_text(peer, 2**-20, 0)}"
    return [memory, _text(loopback, 2**-20, 1), f"{_shared(case, cell.setting) / 2**20:.1f}"]


def _text(value: float | None, scale: float, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value * scale:.{digits}f}"


def _shared(case: str, setting: Setting) -> int:
    """Bytes that are laid down in shared memory in a round: outputs and sums, one for all or one for each."""
    sums = {"shared memory": setting.peers, "Ray": setting.peers, "bare shared memory": 1}.get(case)
    return 0 if sums is None else (setting.peers + sums) * setting.bytes
