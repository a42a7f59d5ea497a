"""The protocol in words, from the configuration of the groups: what was trained, judged and tested, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coordinator.experiment.report import markup
from coordinator.experiment.report.load import ExperimentFolder, SweepFolder
from coordinator.experiment.report.markup import Section
from coordinator.experiment.report.settings import changes
from coordinator.experiment.report.words import count, general, listed, scrub
from coordinator.experiment.results import BEFORE, Results
from coordinator.experiment.statistics import FEWEST_SEEDS, RESAMPLES
from peers.config.loading import DEFAULT_ROUNDS
from peers.config.schema import Config, ConsensusConfig, DataConfig, NetworkConfig, OptimizerConfig

IMAGES = {
    "digits": (1347, 450),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "svhn": (73_257, 26_032),
    "stl10": (5_000, 8_000),
}
"""Training and test images of the published data sets."""

Term = tuple[str, str]


def section(experiments: Sequence[ExperimentFolder], sweeps: Sequence[SweepFolder]) -> Section | None:
    """The protocol of each experiment and sweep; None where there is neither."""
    told: list[tuple[str, str, list[Term]]] = []
    for experiment in experiments:
        told.append((f"protocol-{experiment.key}", experiment.results.experiment, list(_experiment(experiment))))
    for sweep in sweeps:
        told.append((f"protocol-{sweep.key}", str(sweep.about["name"]), list(_sweep(sweep))))
    if not told:
        return None
    several = len(told) > 1
    parts = []
    for place, (key, title, terms) in enumerate(told):
        if place:  # what is the same is said once
            first = told[0]
            terms = [*(term for term in terms if term not in first[2]), ("All else", f"as in {first[1]}.")]
        parts.append((markup.heading(3, title, key) if several else "") + markup.terms(terms))
    return Section("protocol", "Protocol", "".join(parts), [(key, title) for key, title, _ in told] if several else [])


def _experiment(experiment: ExperimentFolder) -> Iterator[Term]:
    results = experiment.results
    config = experiment.config(results.claim)
    if config is not None:
        yield from _run(config, results.split)
        yield "Arms", _arms(experiment, config)
    yield (
        "Seeds",
        f"{', '.join(map(str, results.seeds))}. All arms of a seed begin with the same networks and see the same "
        f"batches.",
    )
    yield from _statistics(results)


def _sweep(sweep: SweepFolder) -> Iterator[Term]:
    config = next((cell.config for cell in sweep.cells if cell.config is not None), None)
    if config is not None:
        yield from _run(config, str(sweep.about["split"]))
    yield "Varied", f"{listed(sweep.axes)}; what is said above of them is the first point's."
    yield "Seeds", f"{', '.join(map(str, sweep.about['seeds']))}: one group for each point and seed."
    yield (
        "Statistics",
        "The unit is the group: a value is the mean over its peers. Intervals are 95 % by Student's t over the seeds, "
        "for each point alone; no test is made, and none should be read into the best of many.",
    )


def _run(config: Config, split: str) -> Iterator[Term]:
    """What all groups have in common."""
    yield "Data", _data(config.data)
    yield "Judged on", f"the {split} split" + ("." if split == "test" else ", which is a part of the training images.")
    networks = listed(_network(network) for network in config.network)
    yield (
        "Networks",
        networks
        + (", dealt to the peers in turn." if len(config.network) > 1 else ", without a projector or predictor."),
    )
    yield "Group", f"{count(config.group.peers or 4, 'peer')}. Each peer's target: {_target(config.consensus)}."
    yield "Training", _training(config)
    yield "Weights judged", _selection(config.selection.rule)
    yield "k-NN probe", _knn(config)
    if config.probe.linear:
        yield "Linear probe", _linear(config, split)
    yield (
        "Batch norm",
        f"Running statistics are estimated anew on {count(config.probe.norm_images, 'training image')} (or all, where "
        f"there are fewer) before every probe, before and after training alike; otherwise the random network would be "
        f"judged with statistics that it never had.",
    )


def _data(data: DataConfig) -> str:
    text = f"{data.name}"
    images = (data.images, data.images // 4) if data.name == "synthetic" else IMAGES.get(data.name)
    if images is None:
        return f"{text}; {data.validation:.0%} of its training images are held out for validation, by seed."
    held_out = max(1, round(images[0] * data.validation))
    return (
        f"{text}: {images[0] - held_out:,} training, {held_out:,} validation (drawn from the training split by seed) "
        f"and {images[1]:,} test images. No augmentation; labels are read by the probes alone."
    )


def _network(network: NetworkConfig) -> str:
    if network.name in ("mlp", "convnet"):
        norm = "no normalization" if network.norm == "none" else f"{network.norm} norm"
        return f"{network.name} of {count(network.depth, 'layer')}, width {network.width}, {norm}"
    return f"{network.name} of width {network.width}"


def _target(consensus: ConsensusConfig) -> str:
    rule = {
        "mean": "the mean of the others' outputs",
        "random_peer": "the output of another peer, drawn each round",
        "roles": "as a student, the output of a teacher, drawn each round",
        "neighbours": f"the mean of its {consensus.k} next peers on a ring",
        "median": "the median of the outputs",
        "trimmed_mean": f"the mean of the outputs without {consensus.q:.0%} at each end",
        "frozen": "the mean of the others as they were at initialization",
    }[consensus.target]
    weight = "" if consensus.weight == 1 else f", weight {general(consensus.weight)}"
    return f"{rule}; loss: {consensus.loss}{weight}"


def _training(config: Config) -> str:
    length = (
        f"{general(config.run.epochs)} epochs"
        if config.run.epochs is not None
        else f"{count(config.run.rounds or DEFAULT_ROUNDS, 'round')}"
    )
    batches = f"{length} of {config.data.batch} images, the same for every peer"
    return f"{batches}. {_optimizer(config.optimizer)}. Forward pass in {config.precision}."


def _optimizer(optimizer: OptimizerConfig) -> str:
    parts = [f"{optimizer.name}, learning rate {general(optimizer.learning_rate)} ({optimizer.schedule} schedule"]
    parts[0] += f", {count(optimizer.warmup, 'round')} of warm-up)" if optimizer.warmup else ")"
    if optimizer.name == "sgd":
        parts.append(f"momentum {general(optimizer.momentum)}")
    parts.append(f"weight decay {general(optimizer.weight_decay)}")
    return ", ".join(parts)


def _selection(rule: str) -> str:
    from peers.runs.summary import SELECTIONS

    if rule == "last":
        return "Those after the last round."
    return f"Each peer's best round by {SELECTIONS.get(rule, rule)}."


def _knn(config: Config) -> str:
    probe = config.probe
    images = "all training images" if probe.train_images is None else f"{count(probe.train_images, 'training image')}"
    return (
        f"Weighted vote of the {probe.knn_k} nearest of {images} by cosine similarity, weights exp(similarity / "
        f"{general(probe.knn_temperature)}). Nothing is fitted or chosen."
    )


def _linear(config: Config, split: str) -> str:
    grid = listed((general(strength) for strength in config.probe.linear_l2), "or")
    chosen = (
        "on the validation images"
        if split == "test"
        else "on a tenth of the training images that is not fitted, since validation images judge"
    )
    return (
        f"Multinomial logistic regression on frozen features, at most {config.probe.linear_steps} iterations of "
        f"L-BFGS; L2 strength {grid}, chosen {chosen}."
    )


def _arms(experiment: ExperimentFolder, base: Config) -> str:
    told = []
    for arm in experiment.arms:
        config = experiment.config(arm)
        if arm == experiment.results.claim:
            told.append(f"{arm} (the claim)")
        elif config is None:
            told.append(arm)
        else:
            differs = ", ".join(f"{key} = {scrub(general(value))}" for key, value in changes(base, config).items())
            told.append(f"{arm} ({differs or 'no difference in configuration'})")
    return "; ".join(told) + ". All else is equal."


def _statistics(results: Results) -> Iterator[Term]:
    tested = [
        one
        for part in (results.gains, results.comparisons)
        for comparisons in part.values()
        for one in comparisons.values()
    ]
    family = sum(one.p is not None for one in tested)
    yield (
        "Unit and pairing",
        f"The unit of every test is the group, that is, the seed: peers of a group are not independent. Each value is "
        f"the mean over the peers of a group; a gain is paired with the same networks before training ({BEFORE}), a "
        f"comparison of arms with the group of the same seed.",
    )
    yield (
        "Tests",
        f"Two-sided paired t-tests, corrected by Holm over one family of {count(family, 'test')}: every gain and every "
        f"comparison of {results.claim}, of all probes. Wilcoxon's signed-rank test, exact, stands beside it, "
        f"uncorrected."
        if family
        else f"None: a test takes at least {FEWEST_SEEDS} seeds.",
    )
    yield (
        "Intervals",
        f"95 %, of the one comparison: Student's t; beside it the bootstrap (BCa, {RESAMPLES:,} resamples, fixed "
        f"draws), which is too narrow for few seeds.",
    )
