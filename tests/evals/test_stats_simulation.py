"""Error rates of every route to a claim, in small: python -m evals.stats.simulate measures them with 2000 repeats."""

import numpy as np
import pytest

from evals.stats import EXPLORATORY_SEEDS
from evals.stats.simulate import (
    CLAIM,
    MARKS,
    PAGE,
    SEEDS,
    areas,
    benchmark,
    benchmarks,
    measure,
    seed_curves,
    shapes,
    swings,
    table,
)

LIMIT = 0.07  # at a nominal 5 %


def claims(found):
    return {route: rate for route, rate in found.items() if route.startswith(CLAIM)}


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(
    ("experiment", "repeats"),
    [
        (benchmark(30, 16), 250),
        (benchmark(80, 4), 250),
        (benchmarks(), 200),
        (areas(), 1500),
        *((shapes(t), 400) for t in ("flat", "falls evenly", "falls fast, levels off", "rises fast, levels off")),
        (swings("falls fast, levels off", 0.3, 0.45), 200),
        (swings("falls evenly", 0.36, 0.44), 200),
        (swings("flat", 0.36, 0.44), 200),
    ],
)
def test_nothing_is_found_where_nothing_is(experiment, repeats, seeds):
    found = claims(measure(experiment, seeds, repeats, "test"))
    assert found and max(found.values()) <= LIMIT, found


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        (benchmark(80, 8, 1.0), {"paired t and problems-and-seeds"}),
        (benchmarks(6.0), {"any of six paired t, Holm", "paired t on the mean of the six"}),
        (areas(0.15), {"area between curves"}),
        (shapes("rises, falls by 0.15"), {"rises, then falls"}),
        (shapes("falls, rises, falls by 0.15"), {"falls, rises, falls"}),
        (swings("swings of 0.4, even", 0.3, 0.5), {"oscillates"}),
    ],
)
def test_large_effects_are_found(experiment, expected):
    found = measure(experiment, 5, 40, "test")
    assert all(found[CLAIM + route] >= 0.9 for route in expected), found


def test_damping_is_found_and_not_seen_in_even_swings():
    damped = measure(swings("swings of 0.5, halved three times", 0.35, 0.45), 10, 60, "test")
    even = measure(swings("swings of 0.4, even", 0.3, 0.5), 10, 200, "test")
    assert damped[f"{CLAIM}amplitudes shrink"] >= 0.9 and even[f"{CLAIM}amplitudes shrink"] <= LIMIT


def test_the_usual_shortcuts_do_find_what_is_not_there():
    """Else the simulation would be too kind to show anything."""
    assert measure(areas(), 5, 200, "test")["one seed, t over steps"] > 0.5
    assert measure(benchmark(200, 8), 3, 100, "test")["one run, problems resampled"] > 0.1


def test_curves_are_the_noise_they_claim_to_be():
    table = np.stack(list(seed_curves(np.random.default_rng(0), 4000, "flat").values()))
    rest = table - table.mean(1, keepdims=True)
    assert np.corrcoef(rest[:, :-1].ravel(), rest[:, 1:].ravel())[0, 1] == pytest.approx(0.9, abs=0.03)
    assert (table[:, 80] - 0.4).std() == pytest.approx(np.hypot(0.03, 0.03), rel=0.05)


def rows(text):
    """(compared, truth, route) -> cells, of the tables in `text`."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {tuple(cells[:3]): cells[3:] for cells in found if cells[0] != "compared"}


def test_the_page_has_every_row_and_no_claim_errs_more_often_than_it_says():
    page = PAGE.read_text().split(MARKS[0])[1].split(MARKS[1])[0]
    assert list(rows(page)) == list(rows(table(1)))
    false = rows(page.partition("### Something to find")[0])
    assert "of 2000 repeats" in page and false
    for key, cells in false.items():
        rates = {seeds: float(cell.split(" ")[0]) for seeds, cell in zip(SEEDS, cells, strict=True)}
        if key[2].startswith(CLAIM):
            assert all(rate <= 100 * LIMIT for seeds, rate in rates.items() if seeds > EXPLORATORY_SEEDS), key
