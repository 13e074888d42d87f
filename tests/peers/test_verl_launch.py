"""`dynclip launch`: verl's own configuration accepts the overrides of every run and holds the values that they mean.

The composition runs in .venv-verl by tests/peers/verl/read_run.py. No GPU: nothing is trained here.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from test_verl import ROOT, verl_python  # noqa: F401 (a fixture)

from dynclip.cli.commands import main
from dynclip.methods.registry import METHODS, method
from dynclip.methods.types import LOGIT_NEEDS
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256, write_json
from dynclip.studies.arms import arm
from dynclip.studies.overrides import resolve
from dynclip.studies.scales import SCALES
from dynclip.training.verl_scripts.data import CHAT_TEMPLATES, check_prompts, messages
from dynclip.training.verl_scripts.keep import KeepEvaluated
from dynclip.training.verl_scripts.reward import compute_score
from dynclip.training.verl_scripts.settings import as_hydra, out_of_reach, overrides, write_launch
from evals.grading import grade_many
from evals.sampling.prompts import TEMPLATES, render

# Text that Hydra's grammar and the shell could take for something else.
AWKWARD = Path('/a b/x=1,{y}/it\'s "so"/$HOME')
TEXTS = ("1 + 1 = ?", "What is $\\frac{1}{2}$?\n\nSay it's {so}.", " spaces around  ")
CASES = [
    ("so \\boxed{7}", "7", ""),
    ("so \\boxed{8}", "7", ""),
    ("Answer: 7", "7", ""),
    ("no answer", "7", ""),
    ("\\boxed{\\frac{1}{2}}", "0.5", ""),
    ("\\boxed{3.14}", "3.1", "1e-1"),
    ("\\boxed{3.14}", "3.1", ""),
]


def compose(python: Path, runs: list[list[str]], *arguments: str) -> list[dict]:
    """What verl reads from each run's overrides, or {"error": …}."""
    foreign = ("PYTEST_", "PYTHON", "RAY_", "VERL_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = [python, "-W", "ignore", ROOT / "tests/peers/verl/read_run.py", *arguments]
    outcome = subprocess.run(command, cwd=ROOT, env=clean, input=json.dumps(runs), capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return json.loads(outcome.stdout)


def of(study, name, seed=2, nodes=1):
    return overrides(study, name, seed, AWKWARD / "data", AWKWARD / "base", AWKWARD / name, nodes)


REACHABLE = [name for name, spec in METHODS.items() if not set(spec.needs) & set(LOGIT_NEEDS)]


@pytest.fixture(scope="module")
def paper(verl_python):  # noqa: F811
    """Every method that verl can run, at the scale of the paper: name -> what verl reads."""
    study = resolve("paper", methods=REACHABLE)
    return dict(zip(REACHABLE, compose(verl_python, [of(study, name) for name in REACHABLE]), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verl_accepts_every_method_with_the_options_of_training(paper):
    assert {name: found["error"] for name, found in paper.items() if "error" in found} == {}
    study = resolve("paper")
    for name, found in paper.items():
        expected = method(name, study.steps)
        assert (found["method"], found["loss_mode"], found["mode"]) == (name, f"dynclip_{name}", "dynclip_sync")
        # A configuration of verl has lists.
        options = {key: list(value) if type(value) is tuple else value for key, value in expected.options.items()}
        assert found["options"] == {key: str(value) for key, value in options.items()}, name
        assert found["entropy"] == bool({"entropy", "entropy_gradient"} & set(expected.spec.needs)), name
    assert {found["entropy"] for found in paper.values()} == {True, False}


@pytest.mark.slow
def test_the_values_of_the_scale_arrive_where_verl_reads_them(paper):
    found, scale = paper["id"], SCALES["paper"]
    assert found["updates"] == scale.updates_per_rollout == 16
    assert not found["critic"] and not found["reference"]
    assert found["dual_clip"] == 10.0 and found["aggregation"] == ["token-mean", None]
    assert found["optimizer"] == [1e-6, 0.1, 1.0, "constant"]
    assert (found["strategy"], found["checkpointing"], found["offload"]) == ("fsdp2", True, [True, True])
    assert found["dtypes"] == ["fp32", "bfloat16", "bfloat16"] and found["micro_batch"] == [4, 4]
    assert found["correction"] == ["token", 2.0, None, False, True]
    assert found["sampling"] == [8, 1.0, 1.0, -1] and found["lengths"] == [1024, 3072]
    assert found["sampler"] == ["vllm", 1, 0.5] and found["machines"] == [1, 8]
    assert found["steps"] == [400, 20, -1] and found["keeps"] == [120, 400]
    assert found["seeds"][0] == 2 and len(set(found["seeds"][1:])) == 1
    assert found["train_files"] == [str(AWKWARD / "data" / "train.parquet")]
    assert found["model"] == str(AWKWARD / "base") and found["checkpoints"] == str(AWKWARD / "id" / "checkpoints")
    assert found["chat_template"] == CHAT_TEMPLATES["qwen-math"]
    assert found["score"] == {"score": 1.0, "acc": 1.0}  # by verl's own loading of the reward function


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_scales_arms_and_settings(verl_python):  # noqa: F811
    small = resolve("workstation")
    fixed = resolve("paper", aggregation="fixed", dual_clip="none", reward="signed", minibatches=8, epochs=2)
    large = resolve("paper_7b")
    runs = [
        of(small, "upper_0.4"), of(small, "grpo_updates16"), of(small, "grpo"), of(fixed, "grpo"),
        of(large, "od", 1, 2), of(large, "od", 2, 2),
    ]  # fmt: skip
    upper, sixteen, plain, normed, machines, other_seed = compose(verl_python, runs)
    assert upper["method"] == "clip_higher" and upper["options"] == {"eps_low": "0.2", "eps_high": "0.4"}
    assert sixteen["updates"] == 16 and plain["updates"] == small.scale.updates_per_rollout == 8
    assert plain["chat_template"] is None and plain["offload"] == [False, False] and plain["steps"] == [120, 18, -1]
    assert normed["aggregation"] == ["seq-mean-token-sum-norm", 3072] and normed["dual_clip"] is None
    assert normed["updates"] == 16
    assert machines["machines"] == [2, 8] and machines["updates"] == 16 and machines["micro_batch"] == [2, 2]
    # 16 samplers or workers add up to 15 to it.
    assert all(abs(a - b) > 15 for a, b in zip(machines["seeds"][1:], other_seed["seeds"][1:], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verl_refuses_what_is_wrong(verl_python):  # noqa: F811
    """So that acceptance above means something: a key, an option, a divisor and a missing entropy."""
    study, actor = resolve("paper"), "actor_rollout_ref.actor"
    loss = f"{actor}.policy_loss"
    wrong = {
        f"{actor}.clip_ratio_d=3": "Could not override",
        f"+{loss}.x=1": "unexpected keyword argument 'x'",
        f"+{loss}.dynclip_options.slope=1": "unknown option 'slope'",
        f"{actor}.ppo_mini_batch_size=1024": "train_batch_size (512) must be >=",
        f"{actor}.ppo_micro_batch_size_per_gpu=null": "set at least one",
        f"{actor}.loss_agg_mode=token": "Invalid loss_agg_mode",
    }
    runs = [[*of(study, "id"), word] for word in wrong]
    runs.append([word for word in of(study, "ent_reg") if "calculate_entropy" not in word])
    found = compose(verl_python, runs)
    for outcome, words in zip(found, [*wrong.values(), "calculate_entropy=True"], strict=True):
        assert words in outcome.get("error", "accepted")


@pytest.mark.parametrize(("value", "text"), [
    (None, "null"), (True, "true"), (1e-6, "1e-06"), ([0.9, "a/b"], "[0.9,a/b]"), ({"x": 1}, "{x:1}"),
    ("true", '"true"'), ("1", '"1"'), ("", '""'), ('a"b', '"a\\"b"'), ('a\\"b', '"a\\\\\\"b"'), ("a\\", '"a\\\\"'),
])  # fmt: skip
def test_values_in_hydras_grammar(value, text):
    assert as_hydra(value) == text


# The data, the prompts, the reward


def write_problems(folder: Path, files: dict[str, list[dict]]) -> None:
    """A data folder as `write_data` of evals.benchmarks leaves it."""
    described = {}
    for name, problems in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        described[path.name] = {"rows": len(problems), "sha256": sha256(path)}
    write_json(folder / "manifest.json", {"files": described})


def problem(number: int, **changes) -> dict:
    return {"id": f"p{number}", "problem": f"What is {number} + 1?", "answer": f"{number + 1}", "level": 0,
            "subject": "sums"} | changes  # fmt: skip


@pytest.fixture
def results(tmp_path) -> Path:
    """A results folder with the paper scale's data in small."""
    names = SCALES["paper"].benchmarks
    sets = {name: [problem(n, tolerance="1e-1" if name == "olympiad" else "") for n in range(3)] for name in names}
    folder = tmp_path / "my results"
    write_problems(folder / "paper" / "data", {"train": [problem(n) for n in range(600)], **sets})
    return folder


def tokenizer(chat_template: str | None):
    """A small byte-level tokenizer with ChatML's marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=marks[2], pad_token=marks[0], chat_template=chat_template
    )


CHATML = (  # with the system message that Qwen's own template adds
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_verl_renders_the_prompt_that_dynclip_writes(template):
    tokens = tokenizer(CHATML)
    tokens.chat_template = CHAT_TEMPLATES.get(template, tokens.chat_template)  # as verl's custom_chat_template does
    for text in TEXTS:
        theirs = tokens.apply_chat_template(messages(text, template), tokenize=False, add_generation_prompt=True)
        assert theirs == render(text, tokenizer(CHATML), template)


def test_a_prompt_that_verl_would_write_differently_is_refused():
    from evals.benchmarks.problem import Problem

    problems = [Problem("a", " 1 + 1 ", "2", 0, "")]
    check_prompts(problems, "qwen-math", tokenizer(None))
    check_prompts(problems, "dapo", tokenizer(CHATML))
    with pytest.raises(UserError, match="template 'dapo': the model's tokenizer has no chat template"):
        check_prompts(problems, "dapo", tokenizer(None))
    starting = tokenizer(CHATML)
    starting._tokenizer.post_processor = start_token()
    with pytest.raises(UserError, match="template 'plain': verl would write the prompt"):
        check_prompts(problems, "plain", starting)


def start_token():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])


@pytest.mark.parametrize(("text", "gold", "tolerance"), CASES)
def test_the_reward_is_the_graders_verdict(text, gold, tolerance):
    correct = grade_many([(text, gold)], tolerances=[tolerance])[0].correct
    given = {"data_source": "dapo", "solution_str": text, "ground_truth": gold}
    given["extra_info"] = {"index": 3, "id": "p3", "tolerance": tolerance, "num_turns": 2}
    assert compute_score(**given) == {"score": float(correct), "acc": float(correct)}
    assert compute_score(**given, reward="signed") == {"score": 1.0 if correct else -1.0, "acc": float(correct)}
    assert correct == (text in ("so \\boxed{7}", "Answer: 7", "\\boxed{\\frac{1}{2}}") or tolerance != "")


def test_the_reward_knows_the_problem():
    given = {"data_source": "dapo", "solution_str": "\\boxed{2^5}", "ground_truth": "32"}
    assert compute_score(**given, extra_info={"problem": "What is $2^5$?"})["acc"] == 0
    assert compute_score(**given, extra_info={"problem": "What is twice $2^4$?"})["acc"] == 1


# What is written


def test_launch_writes_scripts_records_and_data(results, capsys):
    from pyarrow import parquet

    arguments = ["launch", "--scale", "paper", "--methods", "id,clip_higher", "--seeds", "0,2"]
    assert main([*arguments, "--results", str(results)]) == 0
    home = results / "paper" / "verl"
    scripts = capsys.readouterr().out.split("\n")[:-1]
    assert scripts == [str(home / name / f"seed{seed}.sh") for name in ("id", "clip_higher") for seed in (0, 2)]
    study = resolve("paper", methods="id,clip_higher", seeds="0,2")
    record = json.loads((home / "id" / "seed2.json").read_text())
    words = overrides(study, "id", 2, home / "data", results / "paper" / "base", home / "id" / "seed2")
    assert record["overrides"] == words and record["updates_per_rollout"] == 16 and record["engine"] == "verl 0.9.1"
    train = parquet.read_table(home / "data" / "train.parquet").to_pylist()
    assert len(train) == 600 and record["data"]["train.parquet"]["rows"] == 600
    assert train[7]["prompt"] == messages("What is 7 + 1?", "qwen-math") and train[7]["data_source"] == "dapo"
    assert train[7]["reward_model"] == {"style": "rule", "ground_truth": "8"}
    assert train[7]["extra_info"] == {"index": 7, "id": "p7", "problem": "What is 7 + 1?", "tolerance": ""}
    olympiad = parquet.read_table(home / "data" / "olympiad.parquet").to_pylist()
    assert olympiad[0]["extra_info"]["tolerance"] == "1e-1" and olympiad[0]["__rollout_n__"] == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verl_reads_the_files_and_tokenizes_dynclips_prompts(verl_python, tmp_path):  # noqa: F811
    names, tokens = SCALES["paper"].benchmarks, tokenizer(None)
    asked = [problem(n, problem=TEXTS[n % 3] + str(n)) for n in range(600)]
    asked[5]["problem"] = "too long " * 1024
    folder = tmp_path / "paper"
    write_problems(folder / "data", {"train": asked, **{name: [problem(n) for n in range(3)] for name in names}})
    tokens.save_pretrained(folder / "base")
    write_json(folder / "base" / "config.json", {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    _, words = launched(tmp_path, 1)
    found = compose(
        verl_python, [[*words, "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"]], "data"
    )
    assert "error" not in found[0], found[0]["error"]
    assert found[0]["rows"] == {"train": 599, "val": 3 * len(names)}  # the long one is left out
    del asked[5]
    expected = [tokens(render(each["problem"], tokens, "qwen-math"))["input_ids"] for each in asked]
    assert found[0]["prompts"] == expected
    assert found[0]["validation"] == [
        "aime24",
        32,
        {"index": 0, "id": "p0", "problem": "What is 0 + 1?", "tolerance": ""},
    ]


def test_without_data_one_line_says_what_to_run(tmp_path, capsys):
    assert main(["launch", "--scale", "paper", "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train.jsonl is missing; make it with:" in error


def test_machines_are_the_scales_unless_asked_for(results, capsys):
    words = ["launch", "--scale", "paper", "--methods", "id", "--seeds", "1", "--results", str(results)]
    for more, nodes in (((), 1), (("--set", "nodes=2"), 2), (("--set", "nodes=2", "--nodes", "4"), 4)):
        assert main([*words, *more]) == 0
        script = Path(capsys.readouterr().out.strip())
        assert f"trainer.nnodes={nodes}" in json.loads(script.with_suffix(".json").read_text())["overrides"]
        assert f"#SBATCH --nodes={nodes}\n" in script.read_text()


def test_methods_out_of_reach_are_named_and_the_others_written(results):
    study = resolve("paper", methods="grpo,clip_v,aent", seeds="0")
    with pytest.raises(UserError, match=r"verl cannot run clip_v, aent: .*full logits.*The other 1 runs are written"):
        write_launch(study, results / "paper")
    assert [path.parent.name for path in (results / "paper" / "verl").glob("*/seed0.sh")] == ["grpo"]
    with pytest.raises(UserError, match="clip_v: verl cannot run it"):
        of(study, "clip_v")


@pytest.mark.parametrize(("study", "nodes", "words"), [
    (resolve("facts"), 1, "facts: its trainings take no GPU"),
    (resolve("paper", minibatches=4096), 1, "verl cuts mini-batches by prompts"),
    (resolve("paper"), 3, "256 completions of a mini-batch cannot be shared by 24 processes"),
])  # fmt: skip
def test_what_verl_would_stop_at_is_refused_before_anything_is_written(tmp_path, study, nodes, words):
    with pytest.raises(UserError, match=words):
        write_launch(study, tmp_path, nodes)
    assert not (tmp_path / "verl").exists()


def test_a_probe_of_a_study_is_refused(results):
    assert out_of_reach(arm("only_E1_surprisal")).startswith("region_gradient is a probe")
    with pytest.raises(UserError, match="verl cannot run only_E1_surprisal: region_gradient is a probe"):
        write_launch(resolve("paper", methods="only_E1_surprisal", seeds="0"), results / "paper")


def test_evaluated_checkpoints_and_the_newest_two_stay(tmp_path):
    class Config:
        class trainer:
            dynclip_keep = (40, 100)

    keep = KeepEvaluated(Config)
    for step in (20, 40, 60, 80, 100):
        folder = tmp_path / f"global_step_{step}"
        (folder / "actor").mkdir(parents=True)
        keep.on_save(trainer=None, global_step=step, checkpoint_dir=str(folder), async_save=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_100", "global_step_40", "global_step_80"]


# The script itself, with programs that write down how they were called


def run_script(script: Path, folder: Path, **environment) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """The script's outcome and the calls of python, srun and scontrol, in the order in which they began.

    Ray's GPUs are there, for the script that waits for them, once each machine's `start` has begun.
    """
    tools = folder / "tools"
    log = folder / "calls"
    tools.mkdir()
    note = f"""#!/usr/bin/env bash
printf -v words '%s\\037' "$(basename "$0")" "$@"
printf '%s\\n' "$words" >> {log} # in one write: two calls at once do not mix
"""
    for name, body in {
        "python": f"""[ "$1" != - ] || until [ "$(grep -c scripts.scripts {log})" -ge $(($2 / 8)) ]; do
  sleep 0.01
done
""",
        "srun": 'case "$*" in *get_node_ip*) echo 10.0.0.1 ;; *) sleep 0.1 ;; esac\n',
        "scontrol": "printf 'gpu1\\ngpu2\\n'\n",
    }.items():
        (tools / name).write_text(note + body)
        (tools / name).chmod(0o755)
    clean = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(folder)}
    outcome = subprocess.run(
        [script, "trainer.test_freq=20"], env=clean | environment, capture_output=True, text=True, timeout=600
    )
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return outcome, [line.removesuffix("\x1f").split("\x1f") for line in lines if line]


@pytest.fixture
def with_base(results) -> Path:
    write_json(results / "paper" / "base" / "model.json", {"files": {}})
    return results


def launched(results: Path, nodes: int) -> tuple[Path, list[str]]:
    study = resolve("paper", methods="id", seeds="1")
    script = write_launch(study, results / "paper", nodes)[0]
    return script, json.loads(script.with_suffix(".json").read_text())["overrides"]


def test_a_script_starts_verl_and_merges_the_evaluated_checkpoints(with_base, tmp_path):
    script, words = launched(with_base, 1)
    outcome, calls = run_script(script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    imports, training, *merges = calls
    assert imports == ["python", "-c", "import dynclip.verl, math_verify"]
    assert training == ["python", "-m", "verl.trainer.main_ppo", *words, "trainer.test_freq=20"]
    out = script.with_suffix("")
    assert [merge[-3] for merge in merges] == [f"{out}/checkpoints/global_step_{step}/actor" for step in (120, 400)]


def test_a_script_refuses_to_start_without_the_base_policy(results, tmp_path):
    script, _ = launched(results, 1)
    outcome, calls = run_script(script, tmp_path)
    assert (outcome.returncode, calls) == (2, [])
    assert "the base policy is missing; make it with: dynclip warmup --scale paper --steps 400" in outcome.stderr


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_folder_s_name_runs_nothing(results, tmp_path, nodes):
    mark = tmp_path / "ran"
    folder = results.rename(results.with_name(f"it's $(touch {mark.name}) `touch {mark.name}` \"; touch {mark.name} #"))
    write_json(folder / "paper" / "base" / "model.json", {"files": {}})
    script, words = launched(folder, nodes)
    machines = {"SLURM_JOB_NODELIST": "gpu[1-2]", "SLURM_CPUS_ON_NODE": "8"} if nodes > 1 else {}
    outcome, calls = run_script(script, tmp_path, **machines)
    assert outcome.returncode == 0, outcome.stderr
    assert next(call for call in calls if "verl.trainer.main_ppo" in call)[3:-1] == words
    said = outcome.stdout.splitlines()[-1].partition("with: ")[2]
    assert shlex.split(said)[3] == str(script.with_suffix("") / "models" / "step400")
    assert not [*tmp_path.rglob(mark.name)] and not Path(mark.name).exists()


@pytest.mark.parametrize("name", ["a\ntouch ran", "a\x1b[2J", "a\u202eb", "${oc.env:HOME}"])
def test_a_folder_that_a_script_cannot_hold_is_refused_before_anything_is_written(results, name):
    folder = results.rename(results.with_name(name))
    with pytest.raises(UserError, match=r"launch scripts cannot hold this path; .* rename"):
        launched(folder, 1)
    assert not (folder / "paper" / "verl").exists()


def test_a_setting_holds_no_line_break(results):
    study = resolve("paper", methods="id", seeds="1", dual_clip="10\n")
    assert study.given["dual_clip"] == "10" and "\n" not in study.overrides


def test_a_script_for_several_machines_starts_ray_on_each(with_base, tmp_path):
    script, words = launched(with_base, 2)
    outcome, calls = run_script(script, tmp_path, SLURM_JOB_NODELIST="gpu[1-2]", SLURM_CPUS_ON_NODE="64")
    assert outcome.returncode == 0, outcome.stderr
    starts = [call for call in calls if call[0] == "srun" and "start" in call]
    assert [call[call.index("start") + 1] for call in starts] == ["--head", "--address=10.0.0.1:6379"]
    assert ["--nodelist=gpu1" in call for call in starts] == [True, False] and "--nodelist=gpu2" in starts[1]
    assert all("--num-gpus=8" in call and "--cpus-per-task=64" in call for call in starts)
    assert [call[2] for call in calls if call[:2] == ["python", "-"]] == ["8", "16"]  # waits for the head, then for all
    training = next(call for call in calls if "verl.trainer.main_ppo" in call)
    assert training[3:] == [*words, "trainer.test_freq=20"] and "trainer.nnodes=2" in words


def test_several_machines_without_slurm_or_ray_are_refused(with_base, tmp_path):
    script, _ = launched(with_base, 2)
    outcome, calls = run_script(script, tmp_path)
    assert (
        outcome.returncode == 2 and "use sbatch, or start Ray as this file says and set RAY_ADDRESS" in outcome.stderr
    )
    assert len(calls) == 1  # only the look at the environment


def test_scripts_are_sound_shell(with_base):
    for nodes in (1, 2):
        script, _ = launched(with_base, nodes)
        checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert checked.returncode == 0 and checked.stderr == ""
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", script]).returncode == 0
