"""Models, workloads and machines of docs/scale.md, and what they cost on paper: the planner's input without a trial.

Every figure is public or assumed, and says which in docs/scale.md, whose tables scripts/scale_plots.py makes from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.splits import Devices, Split, best, splits

GROUP_SIZE = 16
GROUPS_PER_GPU = 8
MOST_GROUPS = 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that the model uses, and where it is from."""

    name: str
    value: float
    unit: str
    source: str

    @property
    def row(self) -> str:
        """Of the table in the page."""
        return f"| {self.name} | {self.value:,g} {self.unit} | {self.source} |"


_H100 = "NVIDIA H100 data sheet, SXM"
FLOPS = Figure("H100, bf16 without sparsity", 989.4, "TFLOP/s", _H100)
HBM = Figure("H100, memory bandwidth", 3.35, "TB/s", _H100)
MEMORY = Figure("H100, memory", 80, "GB", _H100)
NVLINK = Figure("NVLink 4, each direction", 450, "GB/s", _H100 + ": 900 GB/s both directions together")
PCIE = Figure("PCIe 5 x16, each direction", 64, "GB/s", _H100 + ": 128 GB/s both directions together")
NDR = Figure("InfiniBand NDR, a port for each GPU", 50, "GB/s", "NVIDIA DGX H100 user guide: 8 ConnectX-7 at 400 Gb/s")
ETHERNET = Figure("Ethernet, a port for each machine", 12.5, "GB/s", "NVIDIA DGX H100 user guide: 100 Gb/s")
MFU = Figure("learning, share of those FLOP/s", 0.4, "", "Llama 3, arXiv:2407.21783, table 4: 0.38 to 0.43 on H100")
READING = Figure("writing text, share of the memory bandwidth", 0.6, "", "assumed")
PREFILL = Figure("reading prompts and writing in batches, share of those FLOP/s", 0.5, "", "assumed")
WIRE = Figure("share of a link that a transfer gets", 0.8, "", "assumed")
REDUCE = Figure("a sum over the GPUs of a sampler, twice a layer", 10, "µs", "assumed")
DRIVER = Figure("the driver, for each group", 3, "ms", "assumed")
MICRO_BATCH = Figure("tokens of a pass, for each GPU", 16384, "", "assumed")
SEQUENCES = Figure("episodes under way at a sampler, at most", 256, "", "assumed")
FIGURES = (FLOPS, HBM, MEMORY, NVLINK, PCIE, NDR, ETHERNET, MFU, READING, PREFILL, WIRE, REDUCE, DRIVER, MICRO_BATCH,
           SEQUENCES)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A dense model, in bf16 where it samples and passes, in fp32 where it learns."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_size: int
    source: str
    sampler_gpus: int
    """That a sampler spreads each layer over (tensor parallel)."""
    learner_gpus: int
    """That share the weights, gradients and moments of a learner (FSDP)."""

    @property
    def weight_bytes(self) -> float:
        """In bf16."""
        return 2 * self.parameters

    @property
    def token_bytes(self) -> float:
        """Keys and values of a token, in bf16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True)
class Workload:
    """Episodes in the transcript context."""

    name: str
    turns: float
    """Mean."""
    longest_turns: float
    """Of a group, mean; for a single turn, in mean answers."""
    turns_spread: float
    prompt_tokens: int
    read_tokens: int
    """That each turn adds to the context before the answer, after the first."""
    written_tokens: int
    """Of a mean answer."""
    step_seconds: float

    @property
    def episode_tokens(self) -> float:
        """Of a mean episode."""
        return self.prompt_tokens + self.turns * (self.read_tokens + self.written_tokens)


MODELS = (
    Model("Qwen2.5-7B", 7.61e9, 28, 4, 128, "arXiv:2412.15115", sampler_gpus=1, learner_gpus=4),
    Model("Llama-3.1-70B", 70.6e9, 80, 8, 128, "arXiv:2407.21783", sampler_gpus=4, learner_gpus=32),
)
WORKLOADS = (
    Workload("maths", 1, 2, 0.3, 200, 0, 2000, 0.05),
    Workload("agent", 20, 30, 0.2, 500, 350, 150, 5.0),
)


def costs(model: Model, work: Workload, groups: int) -> Costs:
    """What one sampler and one learner need."""
    flops, memory = FLOPS.value * 1e12, HBM.value * 1e12 * READING.value * model.sampler_gpus
    written = work.written_tokens
    per_token = model.weight_bytes / memory
    if model.sampler_gpus > 1:
        per_token += 2 * model.layers * REDUCE.value * 1e-6
    arithmetic = 2 * model.parameters / (flops * PREFILL.value * model.sampler_gpus)
    context = work.episode_tokens / 2  # on average over an episode
    prefilled = work.read_tokens + work.prompt_tokens / (work.turns * GROUP_SIZE)  # a group shares its prompt
    learner_flops = flops * MFU.value * model.learner_gpus
    gather = model.weight_bytes / _inside(model)
    pass_tokens = MICRO_BATCH.value * model.learner_gpus
    moved = 28 * model.parameters / (model.learner_gpus * HBM.value * 1e12 * READING.value)  # AdamW reads and writes
    return Costs(
        batch_seconds=written * per_token,
        turn_seconds=written * (arithmetic + context * model.token_bytes / memory) + prefilled * arithmetic,
        step_seconds=work.step_seconds,
        execution="process",
        workers=10**6,
        continuous=True,
        turns=work.turns,
        longest_turns=work.longest_turns,
        turns_spread=work.turns_spread,
        group_size=GROUP_SIZE,
        groups_per_update=groups,
        group_seconds=DRIVER.value * 1e-3,
        # In a pass weights are gathered twice and gradients scattered once, at the same time as it computes.
        token_seconds=max(6 * model.parameters / learner_flops, 3 * gather / pass_tokens),
        tokens_per_group=work.prompt_tokens + GROUP_SIZE * (work.episode_tokens - work.prompt_tokens),
        optimizer_seconds=moved + gather,  # the first gather of a step has nothing to hide behind
        optimizer_steps=4,
        micro_batch_tokens=int(pass_tokens),
        weight_bytes=model.weight_bytes,
        gradient_bytes=4 * model.parameters / model.learner_gpus,  # each GPU sums its part with its peers
    )


def _inside(model: Model) -> float:
    """Bytes per second among the GPUs of a learner."""
    return (NVLINK if model.learner_gpus <= 8 else NDR).value * 1e9 * WIRE.value


def links(model: Model, way: str = "broadcast") -> Links:
    """Three ways of the weights to the samplers' machines.

    ``broadcast``: in a chain over InfiniBand, all of them as fast as one. ``one port`` and ``ethernet``: one machine
    serves the others one after the other, through a port of InfiniBand or of Ethernet.
    """
    speed = (ETHERNET if way == "ethernet" else NDR).value * 1e9 * WIRE.value
    return Links(
        pack_speed=PCIE.value * 1e9 * WIRE.value * min(model.learner_gpus, 8),
        copy_speed=speed,
        copies_at_once=None if way == "broadcast" else 8 // model.sampler_gpus,  # of one machine
        exchange_speed=NDR.value * 1e9 * WIRE.value,
        message_seconds=0.0,
    )


def room(model: Model, work: Workload) -> int:
    """Groups under way at a sampler: what its memory holds the keys and values of, and at most SEQUENCES episodes."""
    free = 0.9 * MEMORY.value * 1e9 * model.sampler_gpus - model.weight_bytes
    sequences = min(SEQUENCES.value, free / (model.token_bytes * work.episode_tokens))
    return max(1, int(sequences / GROUP_SIZE))


def groups_per_update(gpus: int) -> int:
    """Updates grow with the machine, up to what a run can make use of."""
    return min(GROUPS_PER_GPU * gpus, MOST_GROUPS)


def plan(
    model: Model,
    work: Workload,
    gpus: int,
    staleness: int,
    *,
    way: str = "broadcast",
    groups: int | None = None,
) -> Split | None:
    """The fastest split of so many GPUs, or None where they are too few; sync where ``staleness`` is 0."""
    if gpus < model.sampler_gpus + model.learner_gpus:
        return None
    mode = "async" if staleness else "sync"
    setup = Setup(1, 1, groups_per_sampler=room(model, work), mode=mode, max_staleness=staleness)
    devices = Devices(gpus, model.sampler_gpus, model.learner_gpus)
    found = costs(model, work, groups or groups_per_update(gpus))
    # Two thousand lengths make a good mean: of few groups in many updates, or of many in a few.
    updates = min(max(2, 2048 // found.groups_per_update), 16)
    return best(splits(found, links(model, way), setup, devices, updates=updates))


def hand_over(model: Model, samplers: int, way: str) -> float:
    """Seconds until the last sampler has new weights."""
    return links(model, way).hand_over_seconds(costs(model, WORKLOADS[0], MOST_GROUPS), samplers)
