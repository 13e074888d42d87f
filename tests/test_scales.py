"""Overrides: what is accepted, and the one line that a wrong one gets."""

import pytest

from dynclip.errors import UserError
from dynclip.scales import LAPTOP, resolve


def test_the_default_study_is_five_methods_by_five_seeds_with_several_updates_per_rollout():
    study = resolve()
    assert study.methods == ("grpo", "clip_higher", "id", "did", "od") and study.seeds == (0, 1, 2, 3, 4)
    assert study.scale.updates_per_rollout > 1 and study.steps == LAPTOP.steps
    assert list(study.checkpoints) == [f"step{round(0.3 * study.steps)}", "final"]


@pytest.mark.parametrize(
    ("given", "seeds"), [("0,1", (0, 1)), (3, (3,)), ("7", (7,)), ([0, 2], (0, 2)), ("0-3", (0, 1, 2, 3))]
)
def test_seed_lists(given, seeds):
    assert resolve(seeds=given).seeds == seeds


def test_the_overrides_make_the_same_study_again():
    assert resolve(steps="20").overrides == "--scale laptop --steps 20"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"scale": "huge"}, "unknown scale 'huge'; the scales are: laptop"),
        ({"methods": "grpo,idd"}, "unknown method 'idd'; the methods are: grpo"),
        ({"methods": "grpo,grpo"}, "methods: 'grpo' is listed twice"),
        ({"methods": ""}, "methods: expected a comma-separated list"),
        ({"seeds": "0,x"}, "seeds: expected whole numbers from 0"),
        ({"seeds": "-1"}, "seeds: expected whole numbers from 0"),
        ({"seeds": "0,0"}, "seeds: '0' is listed twice"),
        ({"steps": 0}, "steps: expected whole numbers from 1"),
        ({"steps": "many"}, "steps: expected whole numbers from 1"),
        ({"updates": 1}, "updates=1: with one update per rollout batch every importance ratio is 1"),
    ],
)
def test_bad_overrides_are_one_line(overrides, words):
    with pytest.raises(UserError, match=words) as error:
        resolve(**overrides)
    assert "\n" not in str(error.value)


def test_one_update_per_rollout_can_be_forced_or_run_for_one_method():
    assert resolve(updates=1, force=1).scale.updates_per_rollout == 1
    assert resolve(updates=1, methods="grpo").scale.updates_per_rollout == 1
