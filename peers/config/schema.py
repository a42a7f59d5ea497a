"""The configuration of a run: one frozen schema for the YAML file, `--set key=value` and the wire.

Read it as the reference: each field says what it means, in which unit, and what it defaults to.
`peers.config.loading` loads, merges, checks and saves it, and turns every problem into one readable error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _as_tuple(value: object) -> object:
    """YAML knows lists only; the frozen schema holds tuples. A mapping stands for a list of one."""
    if isinstance(value, dict):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class RunConfig(Section):
    """What is run, for how long, and where its results go."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder of the run below `out`; by default made of data, target, peers and seed.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Everything random follows from it.")
    rounds: int | None = Field(None, ge=1, description="Rounds to run; one round is one mini-batch. Default 100.")
    epochs: float | None = Field(None, gt=0, description="Instead of `rounds`: passes over the training images.")
    out: str = Field("runs", min_length=1, description="Folder that holds the runs.")


DatasetName: TypeAlias = Literal[
    "digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "stl10", "image_folder", "synthetic"
]


class DataConfig(Section):
    """Which images the group sees. Labels are read by the probes alone."""

    name: DatasetName = Field("digits", description="`digits` is bundled; all others need `root` or `download`.")
    root: str | None = Field(None, description="Folder of the data; by default the environment's PEERS_DATA.")
    download: bool = Field(False, description="Let torchvision download what is missing.")
    batch: int = Field(128, ge=2, description="Images in a round, the same for every peer.")
    validation: float = Field(0.1, gt=0, lt=0.9, description="Share of the training split held out, by seed.")
    image_size: int | None = Field(None, ge=4, le=1024, description="Side in pixels, for image_folder / synthetic.")
    channels: int = Field(3, ge=1, le=16, description="Channels, for synthetic images.")
    images: int = Field(4096, ge=16, description="Number of training images, for synthetic images.")
    budget_mib: int = Field(4096, ge=1, description="Held in device memory as uint8 up to here; streamed above.")
    loader_workers: int = Field(2, ge=0, le=64, description="Processes that decode images when streamed.")


NetworkName: TypeAlias = Literal[
    "mlp",
    "convnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "densenet121",
]


class NetworkConfig(Section):
    """One architecture."""

    name: NetworkName = Field("mlp", description="Backbone; the classifier is removed, outputs are its features.")
    depth: int = Field(5, ge=1, le=100, description="Layers, for mlp and convnet.")
    width: int = Field(64, ge=1, le=65536, description="Units (mlp) or channels of the first block (others).")
    norm: Literal["batch", "layer", "none"] = Field("batch", description="Normalization, for mlp and convnet.")
    init: Literal["default", "kaiming"] = Field("default", description="Each layer's PyTorch default, or Kaiming.")
    small_images: bool = Field(True, description="3x3 stride-1 stem, no first pooling (resnet, densenet).")


TargetName: TypeAlias = Literal["mean", "random_peer", "roles", "neighbours", "median", "trimmed_mean", "frozen"]


class ConsensusConfig(Section):
    """What a peer steps toward, and how the distance is measured."""

    target: TargetName = Field("mean", description="Rule that makes a peer's target from the group's outputs.")
    k: int = Field(1, ge=1, description="Peers in the mean, for neighbours.")
    q: float = Field(0.25, ge=0, lt=0.5, description="Share cut from each end, for trimmed_mean.")
    loss: Literal["cosine", "mse", "standardized_mse", "kl"] = Field("cosine", description="Distance to the target.")
    temperature: float = Field(1.0, gt=0, description="Of both softmaxes, for kl.")
    weight: float = Field(1.0, gt=0, le=1, description="w: the target is (1 - w) own output + w consensus.")
    control: Literal["none", "independent", "shuffled", "noise"] = Field(
        "none", description="Same training with the signal removed; for experiments."
    )
    max_skips: int = Field(10, ge=1, description="Rounds in a row with non-finite values before a peer gives up.")


class OptimizerConfig(Section):
    """One optimizer per peer, the same settings for all."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="Update rule, of torch.optim.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="For sgd.")
    weight_decay: float = Field(0.0, ge=0, description="L2 (adam, sgd) or decoupled (adamw).")
    schedule: Literal["constant", "cosine"] = Field("constant", description="Cosine decays to zero at the end.")
    warmup: int = Field(0, ge=0, description="Rounds of linear warm-up from zero.")


class GroupConfig(Section):
    """Who takes part."""

    peers: int | None = Field(
        None, ge=1, le=4096, description="Peers of the group. Default: one per process under torchrun, otherwise 4."
    )
    peers_per_worker: int = Field(1, ge=1, le=4096, description="Peers that one worker hosts; a single process: all.")
    threads: int | None = Field(
        None,
        ge=1,
        description="Compute threads of a peer on CPU. Default: cores of the host / its peers; 1 for workers that are "
        "started by hand for a coordinator.",
    )


class ExchangeConfig(Section):
    """How outputs travel, and the three times that govern everything (seconds)."""

    kind: Literal["auto", "collective", "coordinator", "inprocess"] = Field(
        "auto", description="auto: inprocess for one worker, collective for several."
    )
    wire: Literal["float32", "bf16", "float16"] = Field(
        "float32", description="Publications as they travel; sums are float32."
    )
    heartbeat: float = Field(5.0, gt=0, description="A member silent for this long is gone.")
    round_deadline: float = Field(60.0, gt=0, description="Longest wait of a round for its slowest member.")
    join_window: float = Field(600.0, gt=0, description="Longest wait for the group to form, and to part.")
    address: str | None = Field(None, description="HOST:PORT of the coordinator, for workers started by hand.")
    shared_memory: bool = Field(True, description="Payloads through shared memory on the coordinator's own host.")
    interface: str | None = Field(
        None,
        min_length=1,
        description="Network interface between hosts, e.g. eth0. Default: the one that reaches the other side.",
    )

    @property
    def elastic(self) -> bool:
        """Whether peers may join and leave during the run: only a coordinator closes rounds without all of them."""
        return self.kind == "coordinator"


class CoordinatorConfig(Section):
    """The service that closes rounds, for exchange.kind coordinator."""

    bind: str = Field("127.0.0.1:0", description="HOST:PORT to listen on; port 0 takes a free one.")
    advertise: str | None = Field(
        None,
        min_length=1,
        description="HOST or HOST:PORT that peers are told. Default: as bound; of a wildcard, this host's address.",
    )
    state: str | None = Field(None, description="Folder of its store. Default: `coordinator` in the run's folder.")
    min_peers: int = Field(2, ge=2, description="Fewest peers that a round may have; below, the group waits.")
    quorum: float = Field(0.5, gt=0, le=1, description="Share of a round's peers that suffices at its deadline.")
    max_peers: int = Field(256, ge=2, le=4096, description="Most peers at a time.")
    norm_bound: float = Field(1e6, gt=0, description="Largest root mean square of one peer's outputs.")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="Port of Prometheus metrics; 0: a free one.")
    lane_port: int | None = Field(
        0,
        ge=0,
        le=65535,
        description="Port for the outputs of peers that share no memory with it; 0: a free one. null: they go by gRPC, "
        "as they do where the port cannot be reached, and more slowly.",
    )


class SecurityConfig(Section):
    """Who may talk to the coordinator. Beyond loopback it refuses to start without certificates and a token."""

    certs: str | None = Field(None, description="Folder made by `coordinator certs`; turns TLS on, on both sides.")
    mutual: bool = Field(False, description="Peers must show the certificate of `certs`, too.")
    token_file: str | None = Field(None, description="File with the group's secret. Default: environment PEERS_TOKEN.")
    insecure: bool = Field(False, description="Listen beyond loopback without them; for a network that you trust.")


class ProbeConfig(Section):
    """How features are judged: k-NN and a linear classifier on frozen features."""

    knn_k: int = Field(20, ge=1, description="Neighbours of the k-NN probe.")
    knn_temperature: float = Field(0.07, gt=0, description="A neighbour's weight is exp(similarity / temperature).")
    linear: bool = Field(True, description="Fit the linear probe before and after training.")
    linear_l2: Annotated[tuple[float, ...], BeforeValidator(_as_tuple)] = Field(
        (1e-4, 1e-3, 1e-2, 1e-1), min_length=1, description="L2 strengths tried; validation images choose."
    )
    linear_steps: int = Field(100, ge=1, description="L-BFGS iterations for each strength.")
    train_images: int | None = Field(None, ge=16, description="Training images used by the probes. Default: all.")
    norm_images: int = Field(4096, ge=2, description="Training images that re-estimate batch-norm statistics.")
    split: Literal["test", "validation"] = Field("test", description="Judged on; choose recipes on validation.")
    every: int = Field(25, ge=0, description="Rounds between live k-NN probes on validation images; 0: none.")
    live_images: int = Field(2000, ge=16, description="Training images, and at most as many validation ones, live.")


class SelectionConfig(Section):
    """Which round's weights are judged in the end."""

    rule: Literal["last", "unsupervised", "validation"] = Field(
        "last",
        description="last: after all rounds. unsupervised: each peer's best by agreement and effective rank, without "
        "labels. validation: its best by live k-NN, which uses labels.",
    )
    every: int = Field(10, ge=1, description="Rounds between looks, for unsupervised and validation.")


class CheckpointConfig(Section):
    """When each peer saves itself."""

    every: int = Field(50, ge=1, description="Rounds between checkpoints; the last round is always saved.")
    keep: int = Field(2, ge=2, description="Newest checkpoints kept; two, so that a group always shares one.")
    snapshots: int = Field(
        0, ge=0, le=1000, description="Rounds, evenly spread in log scale, whose weights are kept for analysis."
    )


class MetricsConfig(Section):
    """What is written down while it runs."""

    every: int = Field(5, ge=1, description="Rounds between records of loss, disagreement and collapse.")
    tensorboard: bool = Field(True, description="Write TensorBoard events beside metrics.jsonl.")


class RayConfig(Section):
    """The same run on a Ray cluster: each worker is an actor."""

    address: str | None = Field(
        None,
        min_length=1,
        description="auto: the cluster of this machine; ray://HOST:10001; HOST:6379. Default: start one here.",
    )
    cpus: float = Field(1.0, ge=0, description="CPUs reserved for each worker.")
    gpus: float | None = Field(
        None, ge=0, description="GPUs reserved for each worker; a part shares one. Default: 1 for device cuda, else 0."
    )
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="How the placement group spreads the workers over the nodes."
    )
    coordinator: Literal["actor", "launcher"] = Field(
        "actor", description="Where it runs: as an actor, or beside the launcher (then peers must reach this machine)."
    )
    runtime_env: dict[str, Any] = Field(
        {}, description="Ray's runtime environment, e.g. {pip: [torch]}; this project's packages are always shipped."
    )
    placement_timeout: float = Field(300.0, gt=0, description="Longest wait, in seconds, for the cluster to have room.")


Line: TypeAlias = Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]+$")]
"""Text of one line: what goes into a job script must not bring lines of its own."""


def _as_text(value: object) -> object:
    """Slurm's `time: 90` is text that looks like a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SlurmConfig(Section):
    """The same run as a Slurm job."""

    nodes: int = Field(1, ge=1, description="Nodes of the job.")
    tasks_per_node: int | None = Field(None, ge=1, description="Workers on each node. Default: shared out evenly.")
    gpus_per_node: int | None = Field(
        None, ge=0, description="GPUs on each node. Default: one for each worker for device cuda, else none."
    )
    cpus_per_task: int | None = Field(None, ge=1, description="Cores of each worker. Default 1.")
    memory: Line | None = Field(None, description="Memory of each node, as sbatch takes it, e.g. 64G.")
    time: Annotated[Line, BeforeValidator(_as_text)] = Field(
        "01:00:00", description="Time limit, as sbatch takes it: minutes, HH:MM:SS, D-HH:MM:SS."
    )
    partition: Line | None = Field(None, description="Partition. Default: the cluster's.")
    account: Line | None = Field(None, description="Account that is charged. Default: yours.")
    extra: Annotated[tuple[Line, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Further sbatch options, e.g. [--exclusive, --constraint=a100]."
    )
    setup: Annotated[tuple[Line, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Shell lines that the job runs first, e.g. [module load cuda]."
    )
    requeue: bool = Field(True, description="Queue the job again when it was preempted or ran out of time.")
    signal_before: int = Field(120, ge=5, le=65535, description="Seconds before the time limit at which peers save.")
    cancel_on_interrupt: bool = Field(False, description="Ctrl-C on the launcher cancels the job; else it goes on.")
    poll: float = Field(5.0, gt=0, description="Seconds between two looks at the job's state.")


class LauncherConfig(Section):
    """Who starts the workers for `coordinator launch`."""

    kind: Literal["local", "ray", "slurm"] = Field(
        "local", description="local: processes of this machine; ray: actors of a cluster; slurm: a batch job."
    )
    max_restarts: int = Field(
        3, ge=0, description="Restarts of a failed group from its checkpoints; with a coordinator, of each process."
    )
    ray: RayConfig = RayConfig()
    slurm: SlurmConfig = SlurmConfig()


def _as_kind(value: object) -> object:
    """`launcher: slurm` stands for `launcher: {kind: slurm}`."""
    return {"kind": value} if isinstance(value, str) else value


class Config(Section):
    """The whole configuration of a run."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    network: Annotated[tuple[NetworkConfig, ...], BeforeValidator(_as_tuple)] = Field(
        (NetworkConfig(),), description="One architecture for all, or a list dealt to the peers in turn."
    )
    consensus: ConsensusConfig = ConsensusConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    group: GroupConfig = GroupConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    security: SecurityConfig = SecurityConfig()
    probe: ProbeConfig = ProbeConfig()
    selection: SelectionConfig = SelectionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
    launcher: Annotated[LauncherConfig, BeforeValidator(_as_kind)] = LauncherConfig()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU.")
    precision: Literal["float32", "bf16"] = Field("float32", description="Of the forward pass; weights are float32.")
    compile: bool = Field(
        False,
        description="torch.compile for the training pass: faster rounds after some tens of seconds, needs a C++ "
        "compiler; weights differ in rounding from those of a run without it.",
    )

    def network_of(self, peer: int) -> NetworkConfig:
        """The architecture of one peer: the list is dealt in turn."""
        return self.network[peer % len(self.network)]
