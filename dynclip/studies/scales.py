"""The scales: what each one trains, evaluates and needs. Plain data, no configuration file.

Every number of a scale is here once, with its source. `resolve` turns the user's overrides into a `RunConfig`.
"""

import shlex
from dataclasses import dataclass, field, replace

from dynclip.studies.architectures import QWEN25_05B, QWEN25_7B, QWEN25_MATH_7B, SMOLLM2_135M, Architecture
from evals.benchmarks.registry import BENCHMARKS
from evals.sampling.settings import Evaluation


@dataclass(frozen=True)
class WarmStart:
    """Supervised warm start of a tiny policy. It stops at the first check with a pass@1 of at least `pass_at_1`.

    `error_rate`: the share of random moves in the walks of `paths`. The other worlds have a teacher with wrong facts.
    """

    batch: int  # worked solutions of one update
    learning_rate: float
    check_every: int  # updates
    max_steps: int
    pass_at_1: float  # at temperature 1, on training problems
    error_rate: float = 0.0


@dataclass(frozen=True)
class WorldPolicy:
    """A tiny policy of a synthetic world (`evals.benchmarks.worlds`). Every seed trains its own, from random weights.

    layers = 0: the network of `paths`, an MLP on the node, the goal and the number of moves left. Otherwise a causal
    transformer of the Qwen2 architecture.
    """

    world: str
    hidden: int
    intermediate: int
    warm_start: WarmStart
    layers: int = 0
    heads: int = 1


@dataclass(frozen=True)
class Supervised:
    """Supervised fine-tuning before RL, on the worked solutions of the training set (GSM8K).

    It takes `solutions` of them, shuffled by `seed`, for `epochs` epochs. The loss counts the response's tokens only.
    """

    solutions: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int = 0


@dataclass(frozen=True)
class HubPolicy:
    """A language model of the hub at `revision`.

    random: for rehearsals, its architecture at a tiny width with random weights, and a tokenizer of its family.
    """

    id: str
    architecture: Architecture
    supervised: Supervised | None = None
    revision: str = "main"
    random: bool = False


@dataclass(frozen=True)
class Execution:
    """How a training is executed. It decides speed and memory, not the result; comparisons ignore all fields.

    nodes: machines of one training. gpus: GPUs of each machine. processes: number on all machines together; default one
    per GPU, or one per machine on CPUs. sharding: "none", "fsdp2" or "zero3". micro_batch: completions in one forward
    pass of one process; None takes a whole mini-batch; an out-of-memory error halves it. sampler: "transformers", or
    "vllm" in the training process or on the server that DYNCLIP_VLLM_SERVER names. gpu_share: share of each GPU's
    memory for vLLM. sleep: vLLM frees that memory while the policy is updated.
    """

    nodes: int = 1
    gpus: int = 0
    processes: int | None = None
    sharding: str = "none"
    dtype: str = "float32"  # of the forward and backward passes; weights and moments stay float32
    micro_batch: int | None = None
    checkpointing: bool = False
    sampler: str = "transformers"
    tensor_parallel: int = 1
    gpu_share: float = 0.3
    sleep: bool = False

    @property
    def all_gpus(self) -> int:
        """GPUs of all machines of one training."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Scale:
    """One size of the experiments.

    A rollout step samples `prompts_per_step` x `group_size` completions and updates the policy `minibatches` x `epochs`
    times on them.
    """

    name: str
    title: str
    policy: WorldPolicy | HubPolicy
    train_set: str
    benchmark_kind: str  # evaluates every benchmark of this kind, or those of `only`
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    prompts_per_step: int
    group_size: int
    minibatches: int
    epochs: int
    learning_rate: float
    max_completion: int  # tokens
    checkpoint_every: int  # rollout steps between resumable states
    early_fraction: float  # share of training after which an extra checkpoint is evaluated
    threads: int  # torch threads of one training; they fix the order of float additions and so the result
    only: tuple[str, ...] = ()
    max_prompt: int | None = None  # tokens; training problems with a longer prompt are left out
    max_level: int | None = None  # harder training problems are left out
    repeats: bool = False  # whether a run may see a training problem more than once
    rate_warmup: int = 0  # rollout steps over which the learning rate rises linearly from 0
    weight_decay: float = 0.0
    aggregation: str = "token"  # of token losses: one of AGGREGATIONS in `overrides`
    dual_clip: float | None = None
    template: str = "plain"  # prompt of training and evaluation: one of evals.sampling.prompts.TEMPLATES
    reward: str = "correct"  # one of evals.grading.REWARDS
    truncated: str = "counted"  # a completion that is cut off has reward 0, and its tokens are trained like the others
    staleness: int = 0  # age in rollout steps of the policy that samples, in the loop
    mismatch: str = "none"  # of the sampler's numbers in the loop: bfloat16, or the relative SD of noise on each weight
    correction: str = "ratio"  # for both: one of `dynclip.training.worlds.sampler`
    trainer: str = "trl"  # or "loop": `dynclip.training.loop`, all seeds of an arm side by side
    execution: Execution = field(default_factory=Execution)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def updates_per_rollout(self) -> int:
        return self.minibatches * self.epochs

    @property
    def has_language_policy(self) -> bool:
        """Whether the policy reads and writes text; that of `paths` reads nodes of a graph."""
        return isinstance(self.policy, HubPolicy) or self.policy.layers > 0

    @property
    def completions(self) -> int:
        """Completions of one rollout batch."""
        return self.prompts_per_step * self.group_size

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the benchmarks that every checkpoint of this scale is scored on."""
        pinned = [entry for entry in BENCHMARKS.values() if entry.content]
        return self.only or tuple(entry.name for entry in pinned if entry.kind == self.benchmark_kind)


@dataclass(frozen=True)
class RunConfig:
    """A scale with the user's overrides: what one `snakemake` call produces under results/<scale>/."""

    scale: Scale
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    given: dict  # arguments of `dynclip.studies.overrides.resolve` that make the same scale and steps again

    @property
    def name(self) -> str:
        return self.scale.name

    @property
    def overrides(self) -> str:
        """`given` as options of the command line."""
        words = []
        for name, value in self.given.items():
            if name == "force":
                words.append("--force")
            else:
                words += (
                    [f"--{name}", str(value)] if name in ("scale", "steps", "updates") else ["--set", f"{name}={value}"]
                )
        return shlex.join(words)

    @property
    def checkpoints(self) -> dict[str, int]:
        """Evaluated checkpoints: label -> rollout step, early first."""
        early = round(self.scale.early_fraction * self.steps)
        return ({f"step{early}": early} if 0 < early < self.steps else {}) | {"final": self.steps}


THE_FIVE = ("grpo", "clip_higher", "id", "did", "od")
# The scales of the laptop study, one per synthetic world. Batches, rates and steps were chosen on GRPO alone, by trials
# on search seeds; `dynclip.lab.regime` is the rule. The clipping thresholds are the paper's.
FACTS = Scale(
    name="facts",
    title="chained modular arithmetic, a base policy that knows most facts and some of them wrongly, on a CPU",
    policy=WorldPolicy(
        "facts", hidden=48, intermediate=96, layers=1, heads=4,
        warm_start=WarmStart(batch=192, learning_rate=3e-3, check_every=25, max_steps=2000, pass_at_1=0.38),
    ),
    train_set="facts_train",
    benchmark_kind="generated",
    only=("facts",),
    methods=THE_FIVE,
    seeds=tuple(range(20, 40)),  # the search for the regime used 1000 to 1003, and in `paths` other graphs
    steps=100,
    prompts_per_step=48, group_size=8, minibatches=16, epochs=1,
    learning_rate=6e-4,
    rate_warmup=1,
    max_completion=6,
    repeats=True,
    checkpoint_every=20,
    early_fraction=0.3,
    threads=1,
    trainer="loop",
)  # fmt: skip

PATHS = replace(
    FACTS,
    name="paths",
    title="ways through a random graph, scored exactly, on a CPU",
    policy=WorldPolicy(
        "paths", hidden=64, intermediate=32,
        warm_start=WarmStart(
            batch=256, learning_rate=3e-3, check_every=50, max_steps=2000, pass_at_1=0.03, error_rate=0.15
        ),
    ),
    train_set="paths_train",
    only=("paths",),
    prompts_per_step=32, minibatches=4, epochs=4,
    learning_rate=6e-4,
    max_completion=7,
)  # fmt: skip

WORDED = replace(
    FACTS,
    name="worded",
    title="the same facts in free wording, most tokens neutral, on a CPU",
    policy=WorldPolicy(
        "worded", hidden=64, intermediate=128, layers=1, heads=4,
        warm_start=WarmStart(batch=128, learning_rate=3e-3, check_every=50, max_steps=3000, pass_at_1=0.25),
    ),
    train_set="worded_train",
    only=("worded",),
    seeds=tuple(range(20, 26)),
    prompts_per_step=16, minibatches=4, epochs=4,
    learning_rate=3e-4,
    max_completion=14,
)  # fmt: skip

# Larger policies, trained from random weights in the world `worded`. Their rates follow the common rule that the rate
# falls with the width; no search has chosen them.
LAPTOP_LARGE = replace(
    WORDED,
    name="laptop_large",
    title="the world worded with a policy of 2 million parameters, hours on a CPU",
    policy=WorldPolicy(
        "worded", hidden=192, intermediate=512, layers=4, heads=6,
        warm_start=WarmStart(batch=128, learning_rate=1e-3, check_every=50, max_steps=3000, pass_at_1=0.25),
    ),
    seeds=tuple(range(20, 24)),
    learning_rate=1e-4,
    checkpoint_every=5,
)  # fmt: skip

GPU_GENERATED = replace(
    LAPTOP_LARGE,
    name="gpu_generated",
    title="the world worded with a policy of 14 million parameters, on one GPU, nothing to download",
    policy=WorldPolicy(
        "worded", hidden=384, intermediate=1024, layers=8, heads=6,
        warm_start=WarmStart(batch=128, learning_rate=5e-4, check_every=50, max_steps=3000, pass_at_1=0.25),
    ),
    seeds=tuple(range(20, 26)),
    prompts_per_step=64,
    learning_rate=5e-5,
    execution=Execution(gpus=1),
)  # fmt: skip

MINIATURE = replace(
    FACTS,
    name="miniature",
    title="every rule of a scale in seconds; for tests only, its numbers mean nothing",
    policy=WorldPolicy(
        "facts", hidden=16, intermediate=32, layers=1, heads=2,
        # Every pass@1 is accepted, so the warm start stops at its first check.
        warm_start=WarmStart(batch=64, learning_rate=3e-3, check_every=60, max_steps=60, pass_at_1=0.0),
    ),
    methods=("grpo", "od"),
    seeds=(0, 1),
    steps=6,
    prompts_per_step=4, group_size=4, minibatches=2, epochs=2,
    checkpoint_every=2,
    evaluation=Evaluation(k=8, limit=40),
)  # fmt: skip

# SmolLM2 solves 1.6 % of GSM8K, too few for rewards in groups of 8, so a short supervised stage comes first. Batch,
# rate and lengths are our choice: no publication trains this model with RLVR.
WORKSTATION = Scale(
    name="workstation",
    title="SmolLM2-135M-Instruct on GSM8K, on one GPU",
    policy=HubPolicy(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        SMOLLM2_135M,
        Supervised(solutions=7473, epochs=3, batch=32, learning_rate=1e-4),
    ),
    train_set="gsm8k_train",
    benchmark_kind="hub",
    only=("gsm8k", "math500"),
    methods=THE_FIVE,
    seeds=(0, 1, 2, 3, 4),
    steps=120,
    prompts_per_step=32, group_size=8, minibatches=4, epochs=2,
    learning_rate=5e-6,
    max_completion=320,
    max_prompt=384,
    checkpoint_every=20,
    early_fraction=0.3,
    threads=4,
    template="chat",
    execution=Execution(gpus=1, dtype="bfloat16", sampler="vllm", micro_batch=8),
    evaluation=Evaluation(engine="auto", max_tokens=512),
)  # fmt: skip

# Qwen2.5-0.5B needs no supervised stage. Its report gives 41.6 % on GSM8K (4-shot; not measured here).
WORKSTATION_QWEN = replace(
    WORKSTATION,
    name="workstation_qwen",
    title="Qwen2.5-0.5B on GSM8K, on one GPU",
    policy=HubPolicy("Qwen/Qwen2.5-0.5B", QWEN25_05B),
    learning_rate=2e-6,
    execution=replace(WORKSTATION.execution, micro_batch=16, checkpointing=True),
)

# The code of the workstation scale in about an hour. It shows that the parts work together, not which method wins. It
# takes GSM8K's problems with at most two calculations, because the short supervised stage hardly solves the others.
WORKSTATION_SMALL = replace(
    WORKSTATION,
    name="workstation_small",
    title="the workstation scale with batches that two CPU cores can carry",
    policy=replace(
        WORKSTATION.policy, supervised=Supervised(solutions=960, epochs=1, batch=16, learning_rate=1e-4)
    ),
    only=("gsm8k",),
    methods=("grpo", "id"),
    seeds=(0,),
    steps=24,
    prompts_per_step=4, group_size=8, minibatches=4, epochs=1,
    max_completion=96,
    max_prompt=160,
    max_level=2,
    checkpoint_every=6,
    threads=2,
    execution=Execution(sampler="vllm", dtype="bfloat16", micro_batch=8),
    evaluation=Evaluation(engine="auto", max_tokens=192, limit=128),
)  # fmt: skip

# Data, steps, prompts, group, rate, weight decay, lengths, sampling and the early checkpoint are those of arXiv
# 2602.09782. The paper does not give the updates per rollout batch, aggregation, dual clip, prompt and reward. Here
# they follow the nearest public recipes: 16 updates of 32 prompts, token mean, dual clip 10. All can be overridden.
# The paper has one run per cell. Our tables call 3 seeds exploratory.
PAPER = Scale(
    name="paper",
    title="Qwen2.5-Math-7B on DAPO-Math-17k, on 8 GPUs",
    policy=HubPolicy("Qwen/Qwen2.5-Math-7B", QWEN25_MATH_7B),
    train_set="dapo",
    benchmark_kind="hub",
    methods=(
        "grpo", "clip_higher", "clip_lower", "ent_reg", "clip_cov", "sapo", "gspo", "id", "did", "od",
    ),
    seeds=(0, 1, 2),
    steps=400,
    prompts_per_step=512, group_size=8, minibatches=16, epochs=1,
    learning_rate=1e-6,
    max_completion=3072,
    max_prompt=1024,
    repeats=True,
    checkpoint_every=20,
    early_fraction=0.3,
    threads=8,
    weight_decay=0.1,
    dual_clip=10.0,
    template="qwen-math",
    execution=Execution(
        gpus=8, sharding="fsdp2", dtype="bfloat16", micro_batch=4, checkpointing=True, sampler="vllm", gpu_share=0.5,
        sleep=True,
    ),
    evaluation=Evaluation(engine="auto", max_tokens=3072),
)  # fmt: skip

PAPER_7B = replace(
    PAPER,
    name="paper_7b",
    title="Qwen2.5-7B on DAPO-Math-17k, on 8 GPUs",
    policy=HubPolicy("Qwen/Qwen2.5-7B", QWEN25_7B),
    max_completion=7168,
    template="chat",
    execution=replace(PAPER.execution, micro_batch=2),
    evaluation=Evaluation(engine="auto", max_tokens=7168),
)

REHEARSAL = "_rehearsal"
SMALL = {"hidden": 64, "intermediate": 128, "layers": 2, "heads": 4}  # at most, in the rehearsal of a world
REAL_SCALES = (
    PATHS, FACTS, WORDED, LAPTOP_LARGE, GPU_GENERATED,
    WORKSTATION, WORKSTATION_QWEN, WORKSTATION_SMALL, PAPER, PAPER_7B,
)  # fmt: skip


def rehearsal(scale: Scale) -> Scale:
    """`scale` with all its rules and methods, but only two steps a run, two seeds and a few problems."""
    if isinstance(scale.policy, WorldPolicy):
        anything = replace(scale.policy.warm_start, check_every=20, max_steps=20, pass_at_1=0.0)
        small = {name: min(getattr(scale.policy, name), most) for name, most in SMALL.items()}
        return replace(
            scale,
            name=scale.name + REHEARSAL,
            title=f"rehearsal of {scale.name}: its numbers mean nothing",
            policy=replace(scale.policy, warm_start=anything, **small),
            seeds=scale.seeds[:2],
            steps=2,
            prompts_per_step=4, group_size=4, minibatches=2, epochs=1,
            checkpoint_every=1,
            early_fraction=0.5,
            execution=Execution(),
            evaluation=Evaluation(k=2, limit=4),
        )  # fmt: skip
    return replace(
        scale,
        name=scale.name + REHEARSAL,
        title=f"rehearsal of {scale.name}: {scale.title}; its numbers mean nothing",
        policy=replace(scale.policy, random=True, supervised=scale.policy.supervised and TINY_STAGE),
        seeds=scale.seeds[:2],
        steps=2,
        prompts_per_step=4, group_size=4, minibatches=2, epochs=1,
        max_completion=16,
        checkpoint_every=1,
        early_fraction=0.5,
        threads=1,
        execution=Execution(dtype=scale.execution.dtype, micro_batch=2, checkpointing=scale.execution.checkpointing),
        evaluation=Evaluation(k=2, limit=4, max_tokens=16),
    )  # fmt: skip


TINY_STAGE = Supervised(solutions=16, epochs=1, batch=8, learning_rate=1e-4)
SCALES: dict[str, Scale] = {scale.name: scale for scale in (*REAL_SCALES, MINIATURE, *map(rehearsal, REAL_SCALES))}
# A suite is a name for several scales that one call runs, with one front page: results/<suite>/report.html.
LAPTOP = tuple(scale.name for scale in (PATHS, FACTS, WORDED))
SUITES: dict[str, tuple[str, ...]] = {
    "laptop": LAPTOP,
    f"laptop{REHEARSAL}": tuple(name + REHEARSAL for name in LAPTOP),
}
