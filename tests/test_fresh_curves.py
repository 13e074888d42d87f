"""The curves of ID, DID and OD in the world of fresh contexts, and the larger policies of the language part."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from dynclip.lab.fresh import curves as measuring
from dynclip.lab.fresh import language
from dynclip.lab.fresh.__main__ import main
from dynclip.lab.fresh.curves import (
    CURVE_METHODS,
    CURVE_SEEDS,
    EVERY,
    KAPPAS,
    KINDS,
    SHAPES,
    STEPS,
    against_start,
    curves_section,
    declared,
    load,
    measure_curves,
    relative,
    segments,
    switching,
)
from dynclip.lab.fresh.language import SIZES, measure_sizes
from dynclip.lab.fresh.page import DRAWN, curves_figure
from dynclip.lab.fresh.world import FreshRegime, run
from dynclip.report.figures.plot import STYLE
from dynclip.studies.scales import WORDED
from dynclip.training.worlds.tasks import network_of

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "steering"
TIME = np.linspace(0, 1, STEPS // EVERY + 1)


def noisy(curve: np.ndarray, size: float = 0.02) -> dict[int, np.ndarray]:
    """Twelve seeds' curves around one."""
    rng = np.random.default_rng(5)
    return {seed: curve + rng.normal(0, size, len(curve)) + rng.normal(0, 0.1) for seed in CURVE_SEEDS}


UP_DOWN = 2.5 + 0.4 * np.interp(TIME, [0, 0.5, 1], [0, 1, 0])
WAVE = 2.5 + 0.4 * np.interp(TIME, [0, 1 / 3, 2 / 3, 1], [1, 0, 1, 0])


@pytest.mark.parametrize(("arm", "curve", "shown"), [
    ("id", UP_DOWN, True),
    ("id", 2.5 - TIME, False),
    ("id", 2.5 + 0 * TIME, False),
    ("did", WAVE, True),
    ("did", UP_DOWN, False),
    ("did", 2.5 - TIME, False),
])  # fmt: skip
def test_shapes_are_judged_right(arm, curve, shown):
    found = SHAPES[arm](noisy(curve))
    assert found.claim is shown and segments(found).endswith(": yes") is shown


def test_a_shape_may_be_there_against_grpo_alone():
    """ID falls all the way, but less than GRPO in the first half and more in the second."""
    grpo = noisy(2.5 - TIME)
    id_ = {seed: curve + UP_DOWN - 2.5 for seed, curve in grpo.items()}
    gap = relative({seed: curve + noisy(0 * TIME, 0.03)[seed] for seed, curve in id_.items()}, grpo)
    assert not SHAPES["id"](id_).claim and SHAPES["id"](gap).claim


def test_segments_say_the_change_within_each_half():
    text = segments(SHAPES["id"](noisy(UP_DOWN, 1e-3)))
    assert text.startswith("**+0.40 [+0.40, +0.40]**, **-0.4")
    early = against_start(noisy(UP_DOWN, 1e-3), STEPS // 4 // EVERY)
    assert early.effect == pytest.approx(0.2, abs=0.01) and early.low < early.effect < early.high


def test_the_switch_by_hand():
    """The lower side is loosened above τ_high, the upper one from τ_low on; τ_high falls from the start to τ_low."""
    time = np.arange(STEPS + 1) / STEPS
    stays = np.full(STEPS + 1, 3.0)
    swings = np.interp(time, [0, 0.2, 0.4, 0.6, 0.8, 1], [3, 0.2, 2.4, 0.2, 2.4, 0.2])
    flat = switching({seed: stays for seed in range(4)})
    assert (flat.reached, flat.lowest, flat.upper, flat.switches) == (0, 1.0, 0.0, 0.0)
    assert flat.lower == pytest.approx(0.99)  # not before the band has begun to fall
    found = switching({seed: swings for seed in range(8)})
    assert found.reached == 8 and found.switches == 4 and found.swings.claim and found.upper > 0.2 < found.lower
    falls = switching({seed: 3 - 1.5 * time for seed in range(8)})
    assert falls.reached == 0 and not falls.swings.claim


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "cells-curves.csv")


def test_the_committed_curves_are_those_of_the_declared_regimes(cells):
    assert (REFERENCE / "cells-curves.csv").stat().st_size < 600_000
    assert len(cells) == len(declared()) * len(CURVE_METHODS) * len(CURVE_SEEDS)
    for key in declared():
        found = load(cells, key)
        assert tuple(found) == CURVE_METHODS
        assert all(tuple(found[arm]) == CURVE_SEEDS for arm in found)
        assert {len(curve) for arm in found.values() for curve in arm.values()} == {STEPS // EVERY + 1}
        assert {len(curve) for curve in load(cells, key, "all")["od"].values()} == {STEPS + 1}
        assert bool(load(cells, key, "success")) is (key[0] == "reward")


def test_a_committed_curve_is_the_policy_s(cells):
    """GRPO's first steps, run again. Its bounds do not depend on the number of steps."""
    key = ("reward", 0.02, 0.3)
    again = run(replace(declared()[key], steps=EVERY), "grpo", CURVE_SEEDS[:2])
    for place, seed in enumerate(CURVE_SEEDS[:2]):
        ends = load(cells, key)["grpo"][seed][1], load(cells, key, "success")["grpo"][seed][1]
        assert ends == pytest.approx((again.entropy_neutral[place, -1], again.success[place, -1]), abs=5e-3)


def test_the_page_and_the_figure_are_made_from_the_committed_curves(cells):
    assert "\n\n".join(curves_section(cells)) in (REFERENCE / "README.md").read_text()
    with matplotlib.rc_context(STYLE):
        axes = curves_figure(cells).axes
    assert len(axes) == len(KINDS) * len(KAPPAS)
    for ax, (kind, own) in zip(axes, ((kind, own) for kind in KINDS for own in KAPPAS), strict=True):
        for line, arm in zip(ax.lines, DRAWN, strict=True):
            assert line.get_label() == arm
            expected = np.mean(list(load(cells, (kind, 0.02, own))[arm].values()), axis=0)
            assert np.allclose(line.get_ydata(), expected) and list(line.get_xdata()[:2]) == [0, EVERY]


def test_a_page_can_do_without_curves_and_with_some_sizes(tmp_path):
    for part in ("train", "test", "language"):
        shutil.copy(REFERENCE / f"cells-{part}.csv", tmp_path)
    some = pd.read_csv(tmp_path / "cells-language.csv").assign(cell="0.1M parameters, rate 0.0003")
    some = some[some["arm"] != "upper_steep"].drop_duplicates(["arm", "where"])
    some.to_csv(tmp_path / "cells-sizes.csv", index=False)
    assert main(["--page", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "Do ID" not in text and not (tmp_path / "fresh-curves.svg").exists()
    assert "| 0.1M parameters, rate 0.0003 |" in text.split("## Larger policies")[1]


def test_a_size_without_its_part_is_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["--size", "2M"])
    assert "--size: only with --part sizes" in capsys.readouterr().err


SMALL = FreshRegime(positions=4, neutral=3, actions=8, right=4, problems=8, group=4, minibatches=2, epochs=2, steps=10)


def in_this_process(processes: int, mp_context) -> ThreadPoolExecutor:
    """Saves the start of new processes."""
    return ThreadPoolExecutor(processes)


def test_killed_curves_go_on_where_they_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ProcessPoolExecutor", in_this_process)
    monkeypatch.setattr(measuring, "declared", lambda: {("reward", 0.01, 0.3): SMALL})
    monkeypatch.setattr(measuring, "CURVE_METHODS", ("grpo", "od"))
    monkeypatch.setattr(measuring, "CURVE_SEEDS", (3, 4))
    measure_curves(tmp_path, 1)
    before = (tmp_path / "cells-curves.csv").read_bytes()
    kept, lost = (tmp_path / "parts-curves" / f"0-{arm}.json" for arm in ("grpo", "od"))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    measure_curves(tmp_path, 1)
    assert kept.stat().st_mtime_ns == stamp and lost.exists()
    assert (tmp_path / "cells-curves.csv").read_bytes() == before
    found = load(pd.read_csv(tmp_path / "cells-curves.csv"), ("reward", 0.01, 0.3))
    assert {arm: [len(curve) for curve in each.values()] for arm, each in found.items()} == {
        "grpo": [3, 3],
        "od": [3, 3],
    }


def test_sizes_are_what_they_are_called_and_their_rates_fall():
    parameters = {}
    for size, cell in SIZES.items():
        shapes = network_of(cell.policy, 600).shapes().values()
        parameters[size] = sum(int(np.prod(shape)) for shape in shapes) / 1e6
    rates = [cell.scale.learning_rate for cell in SIZES.values()]
    assert rates == sorted(rates, reverse=True) and len({cell.seeds for cell in SIZES.values()}) == 1
    assert all(0.6 < parameters[size] / float(size[:-1]) < 1.7 for size in SIZES), parameters


def test_killed_sizes_go_on_where_they_stopped(tmp_path, monkeypatch):
    quick = replace(WORDED.policy, hidden=16, intermediate=16, warm_start=replace(
        WORDED.policy.warm_start, batch=16, pass_at_1=0.0, check_every=1
    ))  # fmt: skip
    fields = {"learning_rate": 3e-4, "prompts_per_step": 4, "minibatches": 2, "epochs": 1, "steps": 8}
    small = language.Cell(fields, 8, quick, ("grpo", "dynamic_lower"), (200, 201))
    monkeypatch.setattr(language, "ProcessPoolExecutor", in_this_process)
    monkeypatch.setattr("dynclip.training.worlds.warm_start.SOLUTIONS", 200)
    monkeypatch.setattr(language, "SIZES", {"tiny": small, "not yet": small})
    measure_sizes(tmp_path, 1, ["tiny"])
    before = (tmp_path / "cells-sizes.csv").read_bytes()
    kept, lost = (tmp_path / "parts-sizes" / "tiny" / f"{arm}.json" for arm in ("grpo", "dynamic_lower"))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    measure_sizes(tmp_path, 1, ["tiny"])
    assert kept.stat().st_mtime_ns == stamp and (tmp_path / "cells-sizes.csv").read_bytes() == before
    rows = pd.read_csv(tmp_path / "cells-sizes.csv")
    assert set(rows["cell"]) == {"tiny parameters, rate 0.0003"} and set(rows["arm"]) == {"dynamic_lower"}
    assert len(json.loads(kept.read_text())["probes"]) == 1
