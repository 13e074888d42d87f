"""Overrides: what is accepted, and the one line that a wrong one gets."""

from dataclasses import replace

import pytest

from dynclip.runtime.errors import UserError
from dynclip.studies.overrides import resolve, resolve_all
from dynclip.studies.scales import FACTS, REHEARSAL, SCALES, SUITES, WorldPolicy


def test_a_world_s_study_is_five_methods_by_twenty_seeds_with_several_updates_per_rollout():
    study = resolve()
    assert study.methods == ("grpo", "clip_higher", "id", "did", "od") and study.seeds == tuple(range(20, 40))
    assert study.scale.updates_per_rollout > 1 and study.steps == FACTS.steps
    assert list(study.checkpoints) == [f"step{round(0.3 * study.steps)}", "final"]


@pytest.mark.parametrize(
    ("given", "seeds"), [("0,1", (0, 1)), (3, (3,)), ("7", (7,)), ([0, 2], (0, 2)), ("0-3", (0, 1, 2, 3))]
)
def test_seed_lists(given, seeds):
    assert resolve(seeds=given).seeds == seeds


def test_the_overrides_make_the_same_study_again():
    assert resolve(steps="20").overrides == "--scale facts --steps 20"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"scale": "huge"}, "unknown scale 'huge'; the scales are: paths, facts.*; the suites are: laptop"),
        ({"scale": "laptop"}, "laptop is a suite of the scales paths, facts, worded; name one of them, as in scale="),
        ({"methods": "grpo,idd"}, "unknown method 'idd'; the methods are: grpo"),
        ({"methods": "grpo,grpo"}, "methods: 'grpo' is listed twice"),
        ({"methods": ""}, "methods: expected a comma-separated list"),
        ({"seeds": "0,x"}, "seeds: expected whole numbers from 0"),
        ({"seeds": "-1"}, "seeds: expected whole numbers from 0"),
        ({"seeds": "0,0"}, "seeds: '0' is listed twice"),
        ({"seeds": "0-99999999999"}, "seeds: at most 1000 of them, more in '0-99999999999'"),
        ({"seeds": "0-900,1000-1900"}, "seeds: at most 1000 of them"),
        ({"seeds": f"0-{'9' * 30}"}, "seeds: at most 1000 of them"),
        ({"seeds": "4294967296"}, "seeds: expected numbers up to 4294967295"),
        ({"steps": 0}, "steps: expected whole numbers from 1"),
        ({"steps": "many"}, "steps: expected whole numbers from 1"),
        ({"methods": "id@switch=0.3,id@switch=0.30"}, "methods: 'id@switch=0.3' is listed twice"),
        ({"options": "id:switch"}, "options: expected METHOD:NAME=VALUE, such as id:switch=0.35, given 'id:switch'"),
        ({"options": "sapo:tau_pos=1"}, "options: 'sapo' is not among the methods of this study: grpo, clip_higher"),
        ({"options": "id:swich=1"}, "method 'id': unknown option 'swich'; its options are: eps=0.2"),
        ({"updates": 1}, "updates=1: with one update per rollout batch every importance ratio is 1"),
    ],
)
def test_bad_overrides_are_one_line(overrides, words):
    with pytest.raises(UserError, match=words) as error:
        resolve(**overrides)
    assert "\n" not in str(error.value)


def test_options_of_methods_make_named_arms():
    study = resolve(options="id:switch=0.35,id:phase2=prose,od:eps=0.1")
    assert study.methods == ("grpo", "clip_higher", "id@switch=0.35@phase2=prose", "did", "od@eps=0.1")
    assert resolve(methods="grpo,id,id@switch=0.350").methods == ("grpo", "id", "id@switch=0.35")
    assert resolve(options="id:switch=0.5") == resolve()


def test_one_update_per_rollout_can_be_forced_or_run_for_one_method():
    assert resolve(updates=1, force=1).scale.updates_per_rollout == 1
    assert resolve(updates=1, methods="grpo").scale.updates_per_rollout == 1


def test_every_scale_s_numbers_fit_together():
    from dynclip.studies.execution import micro_batches
    from evals.benchmarks.registry import BENCHMARKS, TRAIN_SETS
    from evals.sampling.prompts import TEMPLATES

    for name, scale in SCALES.items():
        assert scale.name == name and scale.train_set in TRAIN_SETS and scale.template in TEMPLATES
        assert scale.benchmarks and all(benchmark in BENCHMARKS for benchmark in scale.benchmarks)
        assert scale.completions % scale.minibatches == 0 and scale.updates_per_rollout > 1
        world = max(1, scale.execution.gpus)
        micro, passes = micro_batches(scale, world, scale.execution.micro_batch)
        assert micro * passes * world * scale.minibatches == scale.completions
        assert (scale.trainer == "loop") == isinstance(scale.policy, WorldPolicy)
        if scale.max_prompt:
            assert scale.max_prompt + scale.max_completion <= scale.policy.architecture.context


def test_the_paper_s_numbers_are_the_paper_s():
    paper = SCALES["paper"]
    assert (paper.steps, paper.prompts_per_step, paper.group_size, paper.learning_rate) == (400, 512, 8, 1e-6)
    assert (paper.weight_decay, paper.updates_per_rollout, paper.dual_clip) == (0.1, 16, 10)
    assert paper.max_prompt + paper.max_completion == 4096
    assert SCALES["paper_7b"].max_prompt + SCALES["paper_7b"].max_completion == 8192
    study = resolve("paper")
    assert study.checkpoints == {"step120": 120, "final": 400}
    assert len(study.methods) == 10 and len(paper.benchmarks) == 6


def test_a_rehearsal_keeps_the_graph_and_drops_the_work():
    for name in ("paper", "workstation", "paths", "worded"):
        real, short = SCALES[name], SCALES[name + REHEARSAL]
        assert short.methods == real.methods and short.benchmarks == real.benchmarks and short.steps == 2
        assert list(resolve(short.name).checkpoints) == ["step1", "final"]
    assert SCALES["paper_rehearsal"].policy.random and SCALES["paper_rehearsal"].train_set == "dapo"


def test_settings_are_checked_and_travel_in_the_words_of_a_command():
    from dynclip.cli.commands import parser
    from dynclip.cli.options import config_of

    study = resolve("paper", minibatches="8", dual_clip="none", template="dapo", gpus=4, sharding="zero3")
    assert study.scale.updates_per_rollout == 8 and study.scale.dual_clip is None
    assert (study.scale.execution.gpus, study.scale.execution.sharding) == (4, "zero3")
    words = ["train", "--method", "id", "--seed", "0", *study.overrides.split()]
    assert config_of(parser().parse_args(words)) == study
    assert resolve("paper").scale.dual_clip == 10


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"minibatches": 7}, "minibatches=7: does not divide the 4096 completions of a step"),
        ({"dual_clip": 1}, "dual_clip: expected a number above 1, or none, given 1"),
        ({"template": "x"}, "template: unknown 'x'; valid are: plain, chat, qwen-math, dapo"),
        ({"sharding": "ddp"}, "sharding: unknown 'ddp'; valid are: none, fsdp2, zero3"),
        (
            {"sharding": "fsdp2", "gpus": 0},
            "sharding=fsdp2: for GPUs; accelerate leaves the processes of a CPU unshard",
        ),
        ({"nodes": 2, "processes": 3}, "processes=3: cannot be shared evenly by nodes=2 machines"),
        ({"speed": 2}, "unknown setting 'speed'; the settings are: minibatches"),
    ],
)
def test_a_wrong_setting_is_named(setting, words):
    with pytest.raises(UserError) as error:
        resolve("paper", **setting)
    assert str(error.value).startswith(words)


def test_a_trainer_that_cannot_train_the_policy_is_refused():
    assert resolve("facts", trainer="trl").scale.trainer == resolve("paper").scale.trainer == "trl"
    with pytest.raises(
        UserError, match="trainer=trl: for language models; the policy of paths is none, use trainer=lo"
    ):
        resolve("paths", trainer="trl")
    with pytest.raises(UserError, match="trainer=loop: for the synthetic worlds; paper trains a hub policy, use trai"):
        resolve("paper", trainer="loop")
    with pytest.raises(UserError, match="trainer: unknown 'verl'; valid are: loop, trl"):
        resolve("facts", trainer="verl")


def test_a_suite_is_its_scales_with_the_same_overrides():
    studies = resolve_all(methods="grpo,od", seeds="0-1", steps=7)
    assert tuple(study.name for study in studies) == SUITES["laptop"] == ("paths", "facts", "worded")
    for study in studies:
        assert (study.methods, study.seeds, study.steps) == (("grpo", "od"), (0, 1), 7)
        assert study == resolve(study.name, methods="grpo,od", seeds="0-1", steps=7)
    assert resolve_all("miniature") == (resolve("miniature"),)
    assert [study.name for study in resolve_all("laptop_rehearsal")] == [
        f"{name}_rehearsal" for name in SUITES["laptop"]
    ]
    with pytest.raises(UserError, match="unknown scale 'huge'"):
        resolve_all("huge")


def test_processes_that_cannot_share_a_mini_batch_are_refused():
    from dynclip.studies.execution import micro_batches

    assert micro_batches(SCALES["paper"], 8, 4) == (4, 8)
    assert micro_batches(SCALES["paper"], 8, None) == (32, 1)
    assert micro_batches(SCALES["paper"], 8, 5) == (4, 8)
    with pytest.raises(UserError, match="256 completions of a mini-batch cannot be shared by 3 processes"):
        micro_batches(SCALES["paper"], 3, 4)


def test_harder_problems_and_longer_prompts_are_left_out_and_counted():
    from tiny_trainer import tokenizer

    from dynclip.training.problems import prompts
    from evals.benchmarks.problem import Problem

    scale = replace(SCALES["workstation_small"], max_prompt=4, template="plain")
    problems = [Problem("a", "abc", "1", 1, ""), Problem("b", "abc", "1", 3, ""), Problem("c", "abcde", "1", 2, "")]
    said = []
    assert prompts(scale, problems, tokenizer(), said.append) == [{"prompt": "abc", "problem": "abc", "answer": "1"}]
    assert said == ["1 of 3 problems left out: above level 2", "1 of 2 problems left out: prompts over 4 tokens"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gpus": "2"}, "gpus=2: trainer=loop knows gpus=0 and 1 alone; leave it out, or use trainer=trl"),
        ({"nodes": "2"}, "nodes=2: trainer=loop knows nodes=1 alone"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16: trainer=loop knows dtype=float32 alone"),
        ({"template": "chat"}, "template=chat: trainer=loop knows template=plain alone"),
        ({"micro_batch": "4"}, "micro_batch=4: trainer=loop has no micro_batch"),
    ],
)
def test_what_the_loop_lacks_is_refused(given, text):
    with pytest.raises(UserError) as error:
        resolve("facts", **given)
    assert str(error.value).startswith(text)
    assert resolve("facts", trainer="trl", **given).scale.trainer == "trl"
