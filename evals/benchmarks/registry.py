"""Benchmarks and training sets: one entry each. `loading` loads them and compares the contents with the entry's pins.

A new generated benchmark needs a world in `worlds/` and an entry here with the hash that `pins()` returns. A new
benchmark of the hub needs an entry here; with `content=""` its first load pins it. See docs/benchmarks.md.
"""

from dataclasses import dataclass, field, replace

from evals.benchmarks.hub import HubSet
from evals.sampling.settings import Sampling

LAPTOP_SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=6)
PAPER_SAMPLING = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=4096)


@dataclass(frozen=True)
class ProblemSet:
    """`count` problems of `world` drawn with `seed`, on one side of the held-out split.

    `content` is the SHA-256 of the (problem, answer) rows: it detects a changed generator.
    """

    name: str
    title: str
    world: str
    count: int
    seed: int
    content: str
    held_out: bool = False
    kind: str = "generated"


@dataclass(frozen=True)
class Benchmark(ProblemSet):
    """A held-out problem set with its sampling: `k` completions per problem under `sampling`."""

    held_out: bool = True
    k: int = 32
    sampling: Sampling = LAPTOP_SAMPLING
    released: str = field(default="", repr=False)  # as in HubBenchmark; a generated set has no such day


@dataclass(frozen=True)
class HubBenchmark(HubSet):
    """A problem set of the hub with its sampling: `k` completions per problem under `sampling`, from `seed`.

    `released` is the day on which its first problems became public.
    """

    k: int = 4
    seed: int = 0
    sampling: Sampling = PAPER_SAMPLING
    released: str = field(default="", repr=False)  # repr: it decides what to evaluate again, and this changes no sample


BENCHMARKS: dict[str, Benchmark | HubBenchmark] = {
    entry.name: entry
    for entry in (
        Benchmark(
            name="paths", title="Ways through a graph", world="paths", count=15204, seed=101, k=1,
            content="bd41bdd77e3d024abbee0a3c50087d98205633a564f7a1899dd49522ddfcf985",
        ),
        Benchmark(
            name="facts", title="Arithmetic modulo 7", world="facts", count=200, seed=102,
            content="2c75faabe711c2ad0935e9c48ae31ddb5285467e6707d2560b6ace53cef919df",
        ),
        Benchmark(
            name="worded", title="Worded arithmetic", world="worded", count=200, seed=103,
            content="e935a5d33ee8cdd6900cfef53589819283a7e0ace112ee0603e74ecd20d01399",
            sampling=replace(LAPTOP_SAMPLING, max_tokens=14),
        ),
        HubBenchmark(
            name="aime24", title="AIME 2024", id="HuggingFaceH4/aime_2024", config="default", split="train",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AIME 2024 I", 15), ("AIME 2024 II", 15)), count=30, k=32, seed=201,
            content="c3ce2fba1d9e4beaa9a13f9ec0048023a9aee3ffe7cde219fc447f61b6fa4679", released="2024-02-01",
        ),
        HubBenchmark(
            name="aime25", title="AIME 2025", id="math-ai/aime25", config="default", split="test",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AIME 2025 I", 15), ("AIME 2025 II", 15)), count=30, k=32, seed=202,
            content="13895ee2137181c5ebf5106eaf529f5ab89fbd9059285a8ef698b10dafe2b21a", released="2025-02-06",
        ),
        HubBenchmark(
            name="amc", title="AMC 2022-2023", id="AI-MO/aimo-validation-amc", config="default", split="train",
            key="id", problem="problem", answer="answer", answer_rule="number",
            pools=(("AMC 12 2022", 43), ("AMC 12 2023", 40)), count=83, k=32, seed=203,
            content="603ba77e97b379949c8240f4525919336f72422a06c03aa1688c5242c626c4cd", released="2022-11-10",
        ),
        HubBenchmark(
            name="math500", title="MATH-500", id="HuggingFaceH4/MATH-500", config="default", split="test",
            problem="problem", answer="answer", level="level", subject="subject", count=500, k=4, seed=204,
            content="cc976e62f0457b6e026bf188f8a6f3d8c00675baaf63cf54c8a2c311b096118b", released="2021-03-05",
        ),
        HubBenchmark(
            name="gsm8k", title="GSM8K", id="openai/gsm8k", config="main", split="test",
            problem="question", answer="answer", answer_rule="gsm8k", level="answer", level_rule="calculations",
            count=1319, k=2, seed=205,
            content="bb3478cc4e1038476525262658917d04d96e1ad4c9d88de7c93690219a9ce7a9", released="2021-10-27",
        ),
        HubBenchmark(
            name="olympiad", title="OlympiadBench", id="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP",
            split="train", key="id", problem="question", answer="final_answer", answer_rule="olympiad",
            subject="subfield", tolerance="error", count=675, k=4, seed=206,
            content="a4ac225cb40be7ee986d531ff298ab32e21db741b094e398ca051b13923715ba", released="2024-02-16",
        ),
        # This project could not read the sets below. Their first load pins them: content="".
        HubBenchmark(
            name="aime26", title="AIME 2026", id="MathArena/aime_2026", config="default", split="train",
            key="problem_idx", problem="problem", answer="answer", answer_rule="number",
            count=30, k=32, seed=207, content="", released="2026-02-06",
        ),
        HubBenchmark(
            name="hmmt_feb25", title="HMMT February 2025", id="MathArena/hmmt_feb_2025", config="default",
            split="train", key="problem_idx", problem="problem", answer="answer", answer_rule="list",
            subject="problem_type", count=30, k=32, seed=208, content="", released="2025-02-15",
        ),
        HubBenchmark(
            name="hmmt_nov25", title="HMMT November 2025", id="MathArena/hmmt_nov_2025", config="default",
            split="train", key="problem_idx", problem="problem", answer="answer", answer_rule="list",
            subject="problem_type", count=30, k=32, seed=209, content="", released="2025-11-08",
        ),
        HubBenchmark(
            name="hmmt_feb26", title="HMMT February 2026", id="MathArena/hmmt_feb_2026", config="default",
            split="train", key="problem_idx", problem="problem", answer="answer", answer_rule="list",
            subject="problem_type", count=33, k=32, seed=210, content="", released="2026-02-14",
        ),
        HubBenchmark(
            name="amc24", title="AMC 12 2024", id="rawsh/2024_AMC12", config="default", split="train",
            problem="problem", answer="answer", subject="exam",
            count=45, k=32, seed=211, content="", released="2024-11-06",
        ),
        HubBenchmark(
            name="minerva", title="Minerva-Math", id="math-ai/minervamath", config="default", split="test",
            problem="question", answer="answer", count=272, k=4, seed=212, content="", released="2022-06-29",
        ),
    )
}  # fmt: skip

TRAIN_SETS: dict[str, ProblemSet | HubSet] = {
    entry.name: entry
    for entry in (
        ProblemSet(
            name="paths_train", title="Ways through a graph", world="paths", count=60_024, seed=1,
            content="65ba544bfe25a32407ce107b00a48f1ea7a64026783ec096135a5a7e2e48acec",
        ),
        ProblemSet(
            name="facts_train", title="Arithmetic modulo 7", world="facts", count=20_000, seed=2,
            content="e70cb483a7dc58aec0f96c7a179253bca7f80298d89a150963e90e489dfc179a",
        ),
        ProblemSet(
            name="worded_train", title="Worded arithmetic", world="worded", count=20_000, seed=3,
            content="90496dead9f2f6364e5807d4b216bd413d660a214e4823999ce8d7d3eb5423a7",
        ),
        HubSet(
            name="gsm8k_train", title="GSM8K", id="openai/gsm8k", config="main", split="train",
            problem="question", answer="answer", answer_rule="gsm8k", solution="answer", solution_rule="gsm8k",
            level="answer", level_rule="calculations", count=7473,
            content="f6d1e8227f7642f9b42da09a24b43807c031835dea29e6ed6bd94451c349f8d7",
        ),
        HubSet(
            name="dapo", title="DAPO-Math-17k", id="BytedTsinghua-SIA/DAPO-Math-17k", config="default", split="train",
            problem="prompt", problem_rule="dapo", answer="reward_model.ground_truth", answer_rule="number",
            key="extra_info.index", distinct=True, count=17398,
            content="c56be947f5853ad641dec43b06e27f3bafe1b8d6112428960392adc2c52632d1",
        ),
        HubSet(
            name="dapo_processed", title="DAPO-Math-17k", id="open-r1/DAPO-Math-17k-Processed", config="all",
            split="train", problem="prompt", answer="solution", answer_rule="number",
            key="extra_info.index", distinct=True, count=17398,
            content="c56be947f5853ad641dec43b06e27f3bafe1b8d6112428960392adc2c52632d1",
        ),
        HubSet(
            name="dapo_english", title="DAPO-Math-17k, English", id="open-r1/DAPO-Math-17k-Processed", config="en",
            split="train", problem="prompt", answer="solution", answer_rule="number",
            key="extra_info.index", distinct=True, count=14116,
            content="1c85daac74ff9672946b472ec3c402dc85c5a27f890a69146a43aa73a0628792",
        ),
    )
}  # fmt: skip
