"""The time that is left, against simulated evaluations whose end is known."""

import numpy as np
import pytest

from evals.sampling.forecast import Forecast

BATCH, FULL_RATE, HALF = 256, 1150, 40


def lines(lengths, limit: int, every: float):
    """(seconds, forecast) every so often of an engine that runs BATCH responses, and the seconds of the whole."""
    lengths = np.minimum(lengths, limit)
    running, position, clock, last, found = list(range(min(BATCH, len(lengths)))), np.zeros(len(lengths)), 0.0, 0.0, []
    ended, following = [], len(running)
    while running:
        clock += (len(running) + HALF) / FULL_RATE
        position[running] += 1
        over = [i for i in running if position[i] >= lengths[i]]
        if over:
            ended += [int(lengths[i]) for i in over]
            running = [i for i in running if position[i] < lengths[i]]
            fresh = range(following, min(len(lengths), following + BATCH - len(running)))
            running, following = [*running, *fresh], following + len(fresh)
            if clock - last > every:
                last = clock
                found.append(
                    (clock, Forecast(len(lengths), limit, ended[:], [int(position[i]) for i in running], clock))
                )
    return found, clock


def worked(random, count):
    return random.lognormal(5.8, 0.5, count).astype(int) + 1


def rambling(random, count):
    return np.where(random.random(count) < 0.2, 9999, worked(random, count))


@pytest.mark.parametrize(
    ("lengths", "limit", "count", "least"),
    [(worked, 512, 400, 0.9), (worked, 4096, 400, 0.85), (rambling, 4096, 1000, 0.8), (rambling, 512, 200, 0.8)],
)
def test_the_range_holds_the_truth_within_a_factor_of_two(lengths, limit, count, least):
    random, inside = np.random.default_rng(0), []
    for _ in range(4):
        found, end = lines(lengths(random, count), limit, 5)
        spans = [(forecast.left(), end - clock) for clock, forecast in found]
        inside += [low / 2 <= truth <= 2 * high for (low, high), truth in spans if truth > 5]
    assert len(inside) > 20 and np.mean(inside) >= least


def test_responses_that_still_run_count_in_the_rate_and_in_the_rest():
    # After 20 s one of 128 responses has ended. Without the running ones that is 6 tokens a second and hours.
    forecast = Forecast(128, 256, [120], [118] * 127, 20)
    assert forecast.rate == pytest.approx(755, abs=1)
    low, high = forecast.left()
    assert 1 < low <= high < 60


def test_an_engine_that_hands_out_whole_batches_is_forecast_by_its_mean():
    low, high = Forecast(300, 4096, [10] * 100, [], 10).left()
    assert low == pytest.approx(20, rel=0.3) and high == pytest.approx(20, rel=0.3)
    assert Forecast(300, 4096, [10] * 300, [], 10).left() == (0, 0)
    assert Forecast(300, 4096, [0] * 100, [], 10).left() == (0, 0)  # prompts that fill the context
