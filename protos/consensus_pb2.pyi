from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WireDtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WIRE_DTYPE_UNSPECIFIED: _ClassVar[WireDtype]
    FLOAT32: _ClassVar[WireDtype]
    BFLOAT16: _ClassVar[WireDtype]
    FLOAT16: _ClassVar[WireDtype]

class ReplyCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_CODE_UNSPECIFIED: _ClassVar[ReplyCode]
    OK: _ClassVar[ReplyCode]
    LATE: _ClassVar[ReplyCode]
    VOID: _ClassVar[ReplyCode]
    EXPELLED: _ClassVar[ReplyCode]
    ENDED: _ClassVar[ReplyCode]
    DUPLICATE: _ClassVar[ReplyCode]
    STALE: _ClassVar[ReplyCode]
    FUTURE: _ClassVar[ReplyCode]
    WRONG_EPOCH: _ClassVar[ReplyCode]
    BATCH_MISMATCH: _ClassVar[ReplyCode]
    FOREIGN_PEER: _ClassVar[ReplyCode]
    WRONG_SHAPE: _ClassVar[ReplyCode]
    WRONG_DTYPE: _ClassVar[ReplyCode]
    NOT_FINITE: _ClassVar[ReplyCode]
    NORM_EXCEEDED: _ClassVar[ReplyCode]
    TOO_LARGE: _ClassVar[ReplyCode]
    MALFORMED: _ClassVar[ReplyCode]
    TOO_FAST: _ClassVar[ReplyCode]
    WRONG_RUN: _ClassVar[ReplyCode]
    DISAGREES: _ClassVar[ReplyCode]
    GROUP_FULL: _ClassVar[ReplyCode]
    INDEX_HELD: _ClassVar[ReplyCode]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    FORMING: _ClassVar[Phase]
    RUNNING: _ClassVar[Phase]
    WAITING: _ClassVar[Phase]
    OVER: _ClassVar[Phase]

class Content(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTENT_UNSPECIFIED: _ClassVar[Content]
    TOTAL: _ClassVar[Content]
    MEMBERS: _ClassVar[Content]
    AGGREGATE: _ClassVar[Content]
WIRE_DTYPE_UNSPECIFIED: WireDtype
FLOAT32: WireDtype
BFLOAT16: WireDtype
FLOAT16: WireDtype
REPLY_CODE_UNSPECIFIED: ReplyCode
OK: ReplyCode
LATE: ReplyCode
VOID: ReplyCode
EXPELLED: ReplyCode
ENDED: ReplyCode
DUPLICATE: ReplyCode
STALE: ReplyCode
FUTURE: ReplyCode
WRONG_EPOCH: ReplyCode
BATCH_MISMATCH: ReplyCode
FOREIGN_PEER: ReplyCode
WRONG_SHAPE: ReplyCode
WRONG_DTYPE: ReplyCode
NOT_FINITE: ReplyCode
NORM_EXCEEDED: ReplyCode
TOO_LARGE: ReplyCode
MALFORMED: ReplyCode
TOO_FAST: ReplyCode
WRONG_RUN: ReplyCode
DISAGREES: ReplyCode
GROUP_FULL: ReplyCode
INDEX_HELD: ReplyCode
PHASE_UNSPECIFIED: Phase
FORMING: Phase
RUNNING: Phase
WAITING: Phase
OVER: Phase
CONTENT_UNSPECIFIED: Content
TOTAL: Content
MEMBERS: Content
AGGREGATE: Content

class PeerWish(_message.Message):
    __slots__ = ("index", "incarnation", "saved", "absent")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    incarnation: int
    saved: _containers.RepeatedScalarFieldContainer[int]
    absent: bool
    def __init__(self, index: _Optional[int] = ..., incarnation: _Optional[int] = ..., saved: _Optional[_Iterable[int]] = ..., absent: _Optional[bool] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("run_id", "request", "peers", "insist", "batch", "width", "wire", "rule", "agreed", "name")
    class AgreedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    INSIST_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    request: bytes
    peers: _containers.RepeatedCompositeFieldContainer[PeerWish]
    insist: bool
    batch: int
    width: int
    wire: WireDtype
    rule: str
    agreed: _containers.ScalarMap[str, str]
    name: str
    def __init__(self, run_id: _Optional[str] = ..., request: _Optional[bytes] = ..., peers: _Optional[_Iterable[_Union[PeerWish, _Mapping]]] = ..., insist: _Optional[bool] = ..., batch: _Optional[int] = ..., width: _Optional[int] = ..., wire: _Optional[_Union[WireDtype, str]] = ..., rule: _Optional[str] = ..., agreed: _Optional[_Mapping[str, str]] = ..., name: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("code", "text", "ticket", "retry_after")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    code: ReplyCode
    text: str
    ticket: Ticket
    retry_after: float
    def __init__(self, code: _Optional[_Union[ReplyCode, str]] = ..., text: _Optional[str] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., retry_after: _Optional[float] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("bearer", "peers", "incarnations", "heartbeat", "round_deadline", "join_window", "payload_limit", "partial_sums")
    BEARER_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ROUND_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    JOIN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_SUMS_FIELD_NUMBER: _ClassVar[int]
    bearer: str
    peers: _containers.RepeatedScalarFieldContainer[int]
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    heartbeat: float
    round_deadline: float
    join_window: float
    payload_limit: int
    partial_sums: bool
    def __init__(self, bearer: _Optional[str] = ..., peers: _Optional[_Iterable[int]] = ..., incarnations: _Optional[_Iterable[int]] = ..., heartbeat: _Optional[float] = ..., round_deadline: _Optional[float] = ..., join_window: _Optional[float] = ..., payload_limit: _Optional[int] = ..., partial_sums: _Optional[bool] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("absent",)
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    absent: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, absent: _Optional[_Iterable[int]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: ReplyCode
    text: str
    def __init__(self, code: _Optional[_Union[ReplyCode, str]] = ..., text: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("reports", "wait", "more")
    class ReportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.ScalarMap[int, bytes]
    wait: float
    more: bool
    def __init__(self, reports: _Optional[_Mapping[int, bytes]] = ..., wait: _Optional[float] = ..., more: _Optional[bool] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("code", "text", "reports")
    class ReportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    code: ReplyCode
    text: str
    reports: _containers.ScalarMap[int, bytes]
    def __init__(self, code: _Optional[_Union[ReplyCode, str]] = ..., text: _Optional[str] = ..., reports: _Optional[_Mapping[int, bytes]] = ...) -> None: ...

class ReportsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportsReply(_message.Message):
    __slots__ = ("reports",)
    class ReportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.ScalarMap[int, bytes]
    def __init__(self, reports: _Optional[_Mapping[int, bytes]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("interval",)
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    interval: float
    def __init__(self, interval: _Optional[float] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker", "name", "peers", "incarnations", "state", "connected", "shared_memory", "silent", "rounds", "missed", "refused", "waited_for", "published", "absent")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WAITED_FOR_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    worker: int
    name: str
    peers: _containers.RepeatedScalarFieldContainer[int]
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    state: str
    connected: bool
    shared_memory: bool
    silent: float
    rounds: int
    missed: int
    refused: int
    waited_for: float
    published: bool
    absent: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, worker: _Optional[int] = ..., name: _Optional[str] = ..., peers: _Optional[_Iterable[int]] = ..., incarnations: _Optional[_Iterable[int]] = ..., state: _Optional[str] = ..., connected: _Optional[bool] = ..., shared_memory: _Optional[bool] = ..., silent: _Optional[float] = ..., rounds: _Optional[int] = ..., missed: _Optional[int] = ..., refused: _Optional[int] = ..., waited_for: _Optional[float] = ..., published: _Optional[bool] = ..., absent: _Optional[_Iterable[int]] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("run_id", "phase", "text", "round", "rounds", "epoch", "workers", "closed", "voided", "open_for", "refused", "expelled", "round_seconds", "unix_time", "heartbeat", "round_deadline", "join_window", "upstream")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    VOIDED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FOR_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EXPELLED_FIELD_NUMBER: _ClassVar[int]
    ROUND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ROUND_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    JOIN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    phase: Phase
    text: str
    round: int
    rounds: int
    epoch: int
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    closed: int
    voided: int
    open_for: float
    refused: _containers.ScalarMap[str, int]
    expelled: _containers.RepeatedScalarFieldContainer[str]
    round_seconds: float
    unix_time: float
    heartbeat: float
    round_deadline: float
    join_window: float
    upstream: str
    def __init__(self, run_id: _Optional[str] = ..., phase: _Optional[_Union[Phase, str]] = ..., text: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., epoch: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., closed: _Optional[int] = ..., voided: _Optional[int] = ..., open_for: _Optional[float] = ..., refused: _Optional[_Mapping[str, int]] = ..., expelled: _Optional[_Iterable[str]] = ..., round_seconds: _Optional[float] = ..., unix_time: _Optional[float] = ..., heartbeat: _Optional[float] = ..., round_deadline: _Optional[float] = ..., join_window: _Optional[float] = ..., upstream: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: ReplyCode
    def __init__(self, code: _Optional[_Union[ReplyCode, str]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("shared", "pending")
    SHARED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    shared: SharedOffer
    pending: bool
    def __init__(self, shared: _Optional[_Union[SharedOffer, _Mapping]] = ..., pending: _Optional[bool] = ...) -> None: ...

class SharedOffer(_message.Message):
    __slots__ = ("name", "up", "down", "nonce")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    up: int
    down: int
    nonce: bytes
    def __init__(self, name: _Optional[str] = ..., up: _Optional[int] = ..., down: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("shared", "note", "lane", "port", "key")
    SHARED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    shared: bool
    note: str
    lane: str
    port: int
    key: bytes
    def __init__(self, shared: _Optional[bool] = ..., note: _Optional[str] = ..., lane: _Optional[str] = ..., port: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class Publish(_message.Message):
    __slots__ = ("round", "epoch", "batch", "peers", "abstains", "partial_sum", "leaving", "absent", "id")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    ABSTAINS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_SUM_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    round: int
    epoch: int
    batch: bytes
    peers: _containers.RepeatedScalarFieldContainer[int]
    abstains: _containers.RepeatedScalarFieldContainer[int]
    partial_sum: bool
    leaving: bool
    absent: _containers.RepeatedScalarFieldContainer[int]
    id: int
    def __init__(self, round: _Optional[int] = ..., epoch: _Optional[int] = ..., batch: _Optional[bytes] = ..., peers: _Optional[_Iterable[int]] = ..., abstains: _Optional[_Iterable[int]] = ..., partial_sum: _Optional[bool] = ..., leaving: _Optional[bool] = ..., absent: _Optional[_Iterable[int]] = ..., id: _Optional[int] = ...) -> None: ...

class Next(_message.Message):
    __slots__ = ("round", "epoch", "members")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    round: int
    epoch: int
    members: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, round: _Optional[int] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[int]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("round", "epoch", "contributors", "members", "digest", "leaving", "content", "peers", "next")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    round: int
    epoch: int
    contributors: _containers.RepeatedScalarFieldContainer[int]
    members: _containers.RepeatedScalarFieldContainer[int]
    digest: bytes
    leaving: _containers.RepeatedScalarFieldContainer[int]
    content: Content
    peers: _containers.RepeatedScalarFieldContainer[int]
    next: Next
    def __init__(self, round: _Optional[int] = ..., epoch: _Optional[int] = ..., contributors: _Optional[_Iterable[int]] = ..., members: _Optional[_Iterable[int]] = ..., digest: _Optional[bytes] = ..., leaving: _Optional[_Iterable[int]] = ..., content: _Optional[_Union[Content, str]] = ..., peers: _Optional[_Iterable[int]] = ..., next: _Optional[_Union[Next, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("code", "text", "round", "next")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    code: ReplyCode
    text: str
    round: int
    next: Next
    def __init__(self, code: _Optional[_Union[ReplyCode, str]] = ..., text: _Optional[str] = ..., round: _Optional[int] = ..., next: _Optional[_Union[Next, _Mapping]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class FrameHeader(_message.Message):
    __slots__ = ("attach", "publish", "part", "attached", "opened", "result", "reply", "payload", "in_shared", "shared_at", "dtype", "rows", "columns", "broadcast")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    IN_SHARED_FIELD_NUMBER: _ClassVar[int]
    SHARED_AT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    publish: Publish
    part: Part
    attached: Attached
    opened: Next
    result: Result
    reply: Reply
    payload: int
    in_shared: bool
    shared_at: int
    dtype: WireDtype
    rows: int
    columns: int
    broadcast: int
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., publish: _Optional[_Union[Publish, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., attached: _Optional[_Union[Attached, _Mapping]] = ..., opened: _Optional[_Union[Next, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., payload: _Optional[int] = ..., in_shared: _Optional[bool] = ..., shared_at: _Optional[int] = ..., dtype: _Optional[_Union[WireDtype, str]] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., broadcast: _Optional[int] = ...) -> None: ...
