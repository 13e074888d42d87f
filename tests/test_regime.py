"""The rule that chose the worlds' regimes: on made-up outcomes, and one candidate from data to page."""

import json
from dataclasses import replace

import pytest

from dynclip.lab import regime
from dynclip.lab.regime import CANDIDATES, SEARCH_SEEDS, WORLDS, Candidate, Outcome, numbers, page, search, taken
from dynclip.studies.scales import MINIATURE
from dynclip.training.worlds.tasks import graph_of
from evals.benchmarks.loading import content_hash, draw
from evals.benchmarks.registry import TRAIN_SETS
from evals.sampling.settings import Evaluation

TINY = replace(MINIATURE, evaluation=Evaluation(k=8, limit=20))
CHEAP, DEAR = Candidate(16, 8, 4, 2, 1e-3, 50), Candidate(16, 8, 4, 4, 1e-3, 50)


def outcome(**changes) -> Outcome:
    """Two seeds that pass the rule of every world, on their mean only."""
    passes = Outcome(
        entropy_first=[1.0, 2.0],
        entropy_last=[0.3, 0.4],
        clipped=[0.015, 0.035],
        reward=[[0.1, 0.5, 0.4], [0.1, 0.5, 0.6]],
        base=[{"1": 0.3, "32": 0.9}, {"1": 0.4, "32": 1.0}],
        end=[{"1": 0.4, "32": 0.8}, {"1": 0.8, "32": 0.9}],
        minutes=1.5,
        machine="a processor",
    )
    return replace(passes, **changes)


@pytest.mark.parametrize(
    ("world", "changes", "failures"),
    [
        ("facts", {}, []),
        ("facts", {"entropy_last": [0.3, 0.5]}, ["collapse"]),
        ("worded", {"entropy_last": [0.3, 0.5]}, []),
        ("worded", {"entropy_last": [0.8, 1.1]}, ["collapse"]),
        ("paths", {"clipped": [0.014, 0.024]}, ["binding"]),
        ("paths", {"clipped": [0.16, 0.16]}, ["binding"]),
        ("facts", {"end": [{"1": 0.4}, {"1": 0.5}]}, ["learning"]),
        ("worded", {"end": [{"1": 0.46}, {"1": 0.46}]}, []),
        ("worded", {"end": [{"1": 0.44}, {"1": 0.44}]}, ["learning"]),
        ("facts", {"reward": [[0.1, 0.6, 0.5], [0.1, 0.6, 0.58]]}, ["stable"]),
        ("facts", {"clipped": [0.2, 0.2], "reward": [[0.6, 0.5], [0.6, 0.5]]}, ["binding", "stable"]),
        ("facts", {"stopped": "three updates in a row"}, ["stopped"]),
    ],
)
def test_a_candidate_passes_on_the_mean_of_the_seeds(world, changes, failures):
    assert outcome(**changes).failures(world) == failures


def test_the_cheapest_that_passes_is_taken():
    collapsed = outcome(end=[{"1": 0.1}, {"1": 0.1}])
    assert (CHEAP.cost, DEAR.cost) == (12_800, 25_600)
    assert taken("facts", {DEAR: outcome(), CHEAP: outcome()}) == CHEAP
    assert taken("facts", {DEAR: outcome(), CHEAP: collapsed}) == DEAR
    assert taken("facts", {CHEAP: collapsed}) is None
    same = replace(CHEAP, learning_rate=2e-3)
    assert taken("facts", {same: outcome(), CHEAP: outcome()}) == same, "the first in the list"
    lower = outcome(entropy_last=[0.2, 0.3])
    assert taken("facts", {same: outcome(), CHEAP: lower}) == CHEAP, "at equal cost the one that falls further"
    once = replace(CHEAP, minibatches=16, epochs=1)
    assert once.cost < CHEAP.cost and taken("facts", {once: lower, DEAR: outcome()}) == DEAR, "several epochs first"


def test_tenths_of_a_run():
    rows = [
        {"policy/entropy": 2.0 - k / 20, "clip/low_fraction": 0.01, "clip/high_fraction": k / 1000, "train/reward": k}
        for k in range(20)
    ]
    first, last, clipped, reward = numbers(rows)
    assert (first, last) == (2.0, pytest.approx(2.0 - 18.5 / 20))
    assert clipped == pytest.approx(0.0195) and reward == [0.5 + 2 * part for part in range(10)]


def test_the_page_has_every_candidate_and_what_is_taken():
    broken = outcome(**dict.fromkeys(("entropy_first", "entropy_last", "clipped", "reward", "base", "end"), ()))
    text = page({"facts": {DEAR: outcome(), CHEAP: replace(broken, stopped="three updates")}, "paths": {}})
    row = "| 16 × 8 | 4 × 4 | 0.001 | 50 | 25.6 | 1.500 → 0.350 (23%) | 2.5 | 0.500 → 0.500 | 35.0 → 60.0 |"
    assert f"{row} 95.0 → 85.0 (k = 32) | 1.5 | nothing |" in text
    assert "| – | – | – | – | – | 1.5 | stopped |" in text and "Taken: **16x8-updates4x4-lr0.001-steps50**." in text
    assert "None passes." in text and "on: a processor." in text


def test_every_world_has_candidates_whose_batches_can_be_cut_and_seeds_of_its_own():
    assert set(CANDIDATES) == set(WORLDS)
    for world, scale in WORLDS.items():
        assert not set(SEARCH_SEEDS) & set(scale.seeds)
        assert len({each.label for each in CANDIDATES[world]}) == len(CANDIDATES[world])
        assert all(each.prompts_per_step * each.group_size % each.minibatches == 0 for each in CANDIDATES[world])
        assert Candidate(*(getattr(scale, name) for name in Candidate.__dataclass_fields__)) in CANDIDATES[world]
    assert not {*map(graph_of, SEARCH_SEEDS)} & {*map(graph_of, WORLDS["paths"].seeds)}


def test_a_candidate_is_trained_scored_written_and_kept(tmp_path, monkeypatch, capsys):
    candidate, seeds = Candidate(8, 4, 2, 2, 1e-2, 3), (1000, 1001)
    few = replace(TRAIN_SETS["facts_train"], count=300)
    monkeypatch.setitem(TRAIN_SETS, "facts_train", replace(few, content=content_hash(draw(few))))
    monkeypatch.setattr(regime, "WORLDS", {"facts": TINY})
    monkeypatch.setattr(regime, "SEARCH_SEEDS", seeds)
    monkeypatch.setattr(regime, "CANDIDATES", {"facts": (candidate,)})
    regime.main(["--world", "facts", "--out", str(tmp_path / "out"), "--write", str(tmp_path / "page")])
    record = json.loads((tmp_path / "page/search.json").read_text())
    found = Outcome(**record["outcomes"]["facts"][candidate.label])
    assert len(found.entropy_first) == len(found.base) == len(found.end) == len(seeds) and not found.stopped
    assert all(len(tenths) == 3 for tenths in found.reward) and set(found.base[0]) == {"1", "2", "4", "8"}
    assert min(found.entropy_first) > 0 and found.entropy_first != found.entropy_last and found.base != found.end
    readme = (tmp_path / "page/README.md").read_text()
    assert readme == page({"facts": {candidate: found}}) and capsys.readouterr().out.strip() in readme

    monkeypatch.setattr(regime, "train", None)  # kept: no second training
    assert search(TINY, seeds, (candidate,), tmp_path / "out") == {candidate: found}
    with pytest.raises(TypeError):  # another scale is searched anew
        search(replace(TINY, max_completion=7), seeds, (candidate,), tmp_path / "out")
