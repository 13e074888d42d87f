"""The studies: their arms train what their names say, every arm is one run, pages show what there is."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import trim_mean
from synthetic_study import edit, write_study

from dynclip import method
from dynclip.lab.agreement.checkpoints import measure_checkpoints
from dynclip.methods.registry import METHODS
from dynclip.methods.types import Line, TokenBatch
from dynclip.report.comparisons import seed_means
from dynclip.report.evidence import Evidence, load_evidence
from dynclip.report.figures import FIGURES
from dynclip.report.study_page import write_study as write_page
from dynclip.report.study_page.page import signs
from dynclip.runtime.errors import UserError
from dynclip.runtime.files import sha256
from dynclip.studies.arms import ARMS, STUDIES, UPDATES, arm, find_study, study_runs
from dynclip.studies.method_options import format_value, parse_options
from dynclip.studies.overrides import resolve
from dynclip.studies.probes import PROBES, in_region
from dynclip.studies.scales import FACTS
from dynclip.training.fingerprint import method_digest
from evals.benchmarks.problem import Problem


def test_every_arm_is_a_method_whose_options_it_takes():
    assert set(METHODS) <= set(ARMS) and not set(PROBES) & set(METHODS)
    for each in ARMS.values():
        made = method(each.spec, total_steps=10, **each.options)
        assert made.spec is each.spec
        assert each.scale(FACTS).steps == FACTS.steps


def test_every_study_has_its_baseline_in_every_group_and_known_arms():
    for spec in STUDIES.values():
        assert set(spec.arms) <= set(ARMS) and len(set(spec.arms)) == len(spec.arms), spec.name
        assert not spec.groups or sorted(sum(spec.groups, ())) == sorted(spec.arms)
        assert all(group[0].startswith("grpo") for group in spec.groups or (spec.arms,)), "compared with GRPO"
        assert set(spec.figures) <= set(FIGURES), spec.name
    assert set(STUDIES["field"].arms) == set(METHODS)


@pytest.mark.parametrize(
    ("given", "name", "options"),
    [
        ("id@switch=0.35", "id@switch=0.35", {"switch": 0.35}),
        ("id@phase2=prose@switch=.350", "id@switch=0.35@phase2=prose", {"switch": 0.35, "phase2": "prose"}),
        ("id@switch=0.5", "id", {}),  # the default
        ("id@upper=-0.5:7e-1", "id@upper=-0.5:0.7", {"upper": Line(-0.5, 0.7)}),
        ("aent@band=0.1:0.30", "aent@band=0.1:0.3", {"band": (0.1, 0.3)}),
        ("od@initial_state=0", "od@initial_state=0", {"initial_state": 0}),
        ("cispo@eps_high=6.0", "cispo@eps_high=6", {"eps_high": 6.0}),
        (
            "id@reference=current@detach=NO",
            "id@reference=current@detach=false",
            {"reference": "current", "detach": False},
        ),
        ("id_prose@switch=0.4", "id_prose@switch=0.4", {"phase2": "prose", "switch": 0.4}),
        ("id_updates4@eps=0.1", "id_updates4@eps=0.1", {"eps": 0.1}),
    ],
)
def test_a_name_with_options_is_one_arm_with_one_name(given, name, options):
    made = arm(given)
    assert (made.name, made.options) == (name, options) and arm(name) == made
    base = ARMS[name.partition("@")[0]]
    assert (made.spec, made.settings) == (base.spec, base.settings)
    assert (method_digest(made) == method_digest(base)) == (name == base.name)


def test_every_arm_s_options_are_written_and_read_back():
    for each in ARMS.values():
        shifted = {name: changed(value) for name, value in each.all_options.items()}
        items = [f"{name}={format_value(value)}" for name, value in shifted.items()]
        assert parse_options(each.name, each.all_options, items) == shifted
        assert parse_options(each.name, shifted, items) == {}


def changed(value):
    """Another value of the same type."""
    if isinstance(value, Line):
        return Line(value.slope - 0.125, value.intercept + 1e-7)
    if isinstance(value, tuple):
        return tuple(map(changed, value))
    return not value if isinstance(value, bool) else f"{value}_x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("idd@switch=1", "unknown method 'idd'; the methods are: grpo"),
        ("id@swich=0.3", "method 'id': unknown option 'swich'; its options are: eps=0.2, upper=-0.25:0.5, lower="),
        ("grpo@eps_low", "method 'grpo': option 'eps_low' is not NAME=VALUE; its options are: eps_low=0.2"),
        ("id@switch=0.3@switch=0.4", "method 'id': option 'switch' is given twice"),
        ("id@switch=half", "method 'id', option 'switch': expected float, such as 0.5, given 'half'"),
        ("id@switch=nan", "method 'id', option 'switch': expected float"),
        ("id@upper=0.5", "method 'id', option 'upper': expected slope:intercept, such as -0.25:0.5, given '0.5'"),
        ("id@detach=maybe", "method 'id', option 'detach': expected bool, such as true, given 'maybe'"),
        ("id@phase2=$(ls)", "method 'id', option 'phase2': expected str, such as formula"),
        ("aent@band=0.1", "method 'aent', option 'band': expected tuple, such as 0.05:0.23, given '0.1'"),
        ("clip_cov@at_least=1.5", "method 'clip_cov', option 'at_least': expected int, such as 1"),
        ("id@phase2=poetry", "method 'id': phase2: expected 'formula' or 'prose', given 'poetry'"),
        ("steer@mapping=cubic", "method 'steer': mapping: expected 'exp' or 'linear', given 'cubic'"),
        ("id@detach=false", "method 'id': detach=False needs reference='current'"),
        ("id@eps=-1", "method 'id': step 0: expected bounds 0 <= eps_low <= 1"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_valid_ones(name, words):
    with pytest.raises(UserError) as error:
        arm(name)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_arms_with_other_updates_change_nothing_else():
    for number in UPDATES:
        scale = arm(f"id_updates{number}").scale(FACTS)
        assert scale.updates_per_rollout == number
        assert replace(scale, minibatches=FACTS.minibatches, epochs=FACTS.epochs) == FACTS


def test_a_run_that_several_studies_share_is_made_once():
    study = resolve("miniature")
    trained, scored = study_runs(study, ["curves", "main_table", "thresholds"])
    assert len(trained) == len(set(trained)) and trained.count(("grpo", 0)) == 1
    assert {name for name, _ in scored} == set(STUDIES["main_table"].arms)
    with pytest.raises(UserError, match="unknown study 'curvs'; the studies are: collapse"):
        study_runs(study, ["curvs"])
    with pytest.raises(UserError, match="unknown method 'idd'"):
        arm("idd")
    assert find_study("field").seeds == 6


def tokens(p, advantages, entropy) -> TokenBatch:
    logprob = torch.tensor([p]).log()
    return TokenBatch(
        logprob=logprob.clone().requires_grad_(), old_logprob=logprob, advantages=torch.tensor(advantages),
        mask=torch.ones_like(logprob), entropy=torch.tensor([entropy]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("split", "region", "expected"),
    [
        ("surprisal", "E1", [True, False, False]), ("surprisal", "E2", [False, True, True]),
        ("probability", "E1", [True, False, False]), ("probability", "E2", [False, False, True]),
        ("surprisal", "E3", [False] * 3), ("probability", "E4", [False] * 3),
    ],
)  # fmt: skip
def test_regions_of_good_tokens_by_surprisal_and_by_probability(split, region, expected):
    batch = tokens([0.9, 0.5, 0.1], [1.0], [0.5, 0.5, 0.5])
    probe = method(PROBES["region_gradient"], 10, region=region, split=split)
    weights = probe.prepare(batch, 0)
    loss = probe.loss(replace(batch, weight=weights.weight), 0)
    (gradient,) = torch.autograd.grad(loss.loss, batch.logprob)
    assert (gradient[0] != 0).tolist() == expected


def test_a_wider_clip_in_one_region_lets_its_tokens_through_alone():
    old = torch.tensor([[0.8, 0.1, 0.8]]).log()
    now = (old + torch.tensor([[1.25, 1.25, 1.35]]).log()).requires_grad_()
    batch = TokenBatch(
        logprob=now, old_logprob=old, advantages=torch.tensor([1.0]), mask=torch.ones_like(old),
        entropy=torch.full_like(old, 0.5),
    )  # fmt: skip
    wide = method(PROBES["region_clip"], 10, region="E1", split="probability")
    (gradient,) = torch.autograd.grad(wide.loss(batch, 0).loss, now)
    assert (gradient[0] != 0).tolist() == [True, False, False], "inside 1.3 and likely; unlikely; beyond 1.3"


def test_mean_bounds_are_as_loose_as_the_lines_and_blind_to_the_probability():
    old = torch.tensor([[0.9, 0.1]]).log()
    batch = TokenBatch(logprob=old + 0.36, old_logprob=old, advantages=torch.tensor([1.0]), mask=torch.ones_like(old))
    line, mean = method("dynamic_upper", 10), method(PROBES["dynamic_upper_mean"], 10)
    _, high = line.bounds(old.exp(), 0)
    ratio = batch.logprob.sub(old).exp()
    clipped = torch.minimum(ratio, 1 + high.mean())
    assert torch.allclose(mean.loss(batch, 0).per_token, -clipped)
    assert torch.allclose(line.loss(batch, 0).per_token, -torch.minimum(ratio, 1 + high))
    assert high[0, 0] < high.mean() < high[0, 1]


def test_a_tilt_keeps_the_mean_looseness_and_scales_the_slope():
    old = torch.tensor([[0.9, 0.5, 0.1]]).log()
    batch = TokenBatch(logprob=old + 2.0, old_logprob=old, advantages=torch.tensor([1.0]), mask=torch.ones_like(old))
    _, high = method("dynamic_upper", 10).bounds(old.exp(), 0)

    def bound(name):  # every ratio is far above its bound, so the loss shows the bound
        chosen = arm(name)
        return -method(chosen.spec, 10, **chosen.options).loss(batch, 0).per_token - 1

    for name, tilt in (("upper_tilt2", 2.0), ("dynamic_upper_mean", 0.0), ("upper_tilt_back", -1.0)):
        assert torch.allclose(bound(name), high.mean() + tilt * (high - high.mean())), name
        assert bound(name).mean() == pytest.approx(high.mean().item()), name


def test_id_in_reverse_ends_where_id_begins():
    q = torch.tensor([[0.2, 0.7]])
    forwards, backwards = method("id", 10), method(PROBES["id_reversed"], 10)
    for step in range(11):
        there, back = forwards.bounds(q, step), backwards.bounds(q, 10 - step)
        assert all(torch.allclose(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(there, back, strict=True))


def test_an_unknown_region_is_named():
    with pytest.raises(ValueError, match="given 'E5', 'surprisal'"):
        in_region(None, "E5", "surprisal")


def test_a_study_s_page_shows_what_is_there_and_what_is_missing(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "did", "id_phase0.3"), (0, 1, 2, 3))
    (results / "runs" / "did" / "seed2" / "run.json").unlink()
    files = write_page(results, "phase_ratio", (0, 1, 2, 3))
    page = (results / "studies" / "phase_ratio" / "README.md").read_text()
    assert "missing: did/seed2" in page and "missing: id_phase0.6/seed0" in page and "4 seeds, paired" in page
    assert "`id_phase0.3`" in page and "switch=0.3" in page
    table = pd.read_csv(results / "studies" / "phase_ratio" / "differences.csv")
    assert {"id", "did", "id_phase0.3"} <= set(table["a"]) and set(table["b"]) == {"grpo"}
    assert {path.name for path in files} >= {"README.md", "effects.svg", "panels.png", "differences.csv", "curves.csv"}
    again = {path: path.read_bytes() for path in files}
    write_page(results, "phase_ratio", (0, 1, 2, 3))
    assert all(path.read_bytes() == content for path, content in again.items()), "byte for byte the same"


@pytest.mark.parametrize(("seeds", "words"), [((0,), "no interval, no claim"), ((0, 1), "exploratory")])
def test_few_seeds_run_and_say_so(tmp_path, seeds, words):
    results = write_study(tmp_path / "results" / "tiny", ("grpo",), seeds)
    write_page(results, "collapse", seeds)
    assert words in (results / "studies" / "collapse" / "README.md").read_text()


def test_arms_of_different_protocols_are_not_compared(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id"), (0, 1))
    path = results / "runs" / "id" / "seed1" / "run.json"
    edit(path, protocol=json.loads(path.read_text())["protocol"] | {"loss aggregation": "grpo"})
    with pytest.raises(UserError, match="id/seed1 has another loss aggregation, grpo, than the others, dapo"):
        write_page(results, "curves", (0, 1))


def test_an_evaluated_study_aggregates_benchmarks_and_says_what_it_could_see(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "clip_higher", "id", "did", "od"), (0, 1, 2, 3))
    write_page(results, "main_table", (0, 1, 2, 3))
    folder = results / "studies" / "main_table"
    page = (folder / "README.md").read_text()
    assert "better than grpo [runs]" in page and "seed × problem sd" in page and "(10 problems × 4 samples" in page
    table = pd.read_csv(folder / "aggregate.csv").set_index("method")
    evidence = load_evidence(results)
    every = np.array([list(seed_means(evidence, name, "id").values()) for name in evidence.benchmarks])
    assert table.loc["id", "iqm"] == pytest.approx(trim_mean(every.ravel(), 0.25))
    planned = pd.read_csv(folder / "power.csv")
    assert len(planned) == 4 * 2 and (planned["detectable_20"] < planned["detectable_5"]).all()
    assert (folder / "scores.svg").exists()


def test_the_field_is_ranked_and_ties_are_not_hidden(tmp_path):
    results = write_study(tmp_path / "results" / "tiny", ("grpo", "id", "od"), (0, 1, 2))
    write_page(results, "field", (0, 1, 2))
    table = pd.read_csv(results / "studies" / "field" / "ranking.csv").set_index("method")
    assert set(table.index) == set(METHODS) and table["rank"].notna().sum() == 3
    assert (table["rank_low"].dropna() <= table["rank"].dropna()).all()
    assert table["leads"].sum() == pytest.approx(1) and table.loc["gspo", "seeds"] == 0
    assert "exploratory" in (results / "studies" / "field" / "README.md").read_text()


def test_the_rule_is_checked_on_the_tokens_of_the_checkpoints(tmp_path):
    from tiny_trainer import PROMPTS, model, tokenizer

    results = tmp_path / "miniature"
    for step in (1, 2):
        folder = results / "runs" / "grpo" / "seed0" / "checkpoints" / f"step{step}"
        model().save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    (results / "data").mkdir()
    rows = [asdict(Problem(str(i), prompt, "a", 1, "letters")) for i, prompt in enumerate(PROMPTS[:4])]
    train = results / "data" / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded = {train.name: {"rows": len(rows), "sha256": sha256(train)}}
    (results / "data" / "manifest.json").write_text(json.dumps({"files": recorded}))
    runs = {("grpo", 0): {"checkpoints": [1, 2]}, ("id", 0): {"checkpoints": [1, 2]}}
    evidence = Evidence(results, ("grpo", "id"), (0,), runs, {}, [])
    table = signs(evidence, measure_checkpoints(evidence, "grpo"))
    assert [record["step"] for record in table.records] == [1, 2]
    assert table.records[0]["agree"] == table.records[1]["agree"], "the same policy twice"
    assert 50 < table.records[0]["agree"] < 100 and table.records[0]["entropy"] > math.log(2)
    assert math.isnan(table.records[0]["agree_E1"]) and "missing" in table.rows[0], "no answer is right: no advantages"
