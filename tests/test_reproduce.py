"""The live block of `dynclip reproduce`: what it reads from Snakemake's output, and what it says of a failure."""

import pytest

from dynclip.cli.reproduce import State, failure, whole_lines

PLAN = """Plan of paths
runs       2 methods x 3 seeds, 6 of 6 trainings left
steps      100 rollout batches a run, 16 updates on each
Plan of facts
runs       2 methods x 3 seeds, 3 of 6 trainings left
steps      50 rollout batches a run, 16 updates on each
"""


def after(text: str) -> State:
    state = State()
    for line in text.splitlines(keepends=True):
        state.read(line)
    return state


def test_the_block_counts_jobs_and_rollout_steps_of_all_scales():
    state = after(
        PLAN
        + "[base policy] 700/700  pass@1 0.31  9.10/s  0:00 left\n"
        + "[grpo 3 seeds] 40/100  reward 0.47  entropy 1.836 nats  clipped 6.63%  0.54/s  1:58 left\n"
        + "[id 3 seeds] 100/100  reward 0.55  entropy 1.648 nats  clipped 7.30%  0.60/s  0:00 left\n"
        + "3 of 20 steps (15%) done\n"
        + "[id 3 seeds] 10/50  reward 0.45  entropy 1.948 nats  clipped 7.30%  0.60/s  1:07 left\n"
    )
    assert (state.jobs_done, state.jobs) == (3, 20)
    assert state.work == 6 * 100 + 3 * 50
    assert state.worked == 3 * 40 + 3 * 100 + 3 * 10  # `id` of the second scale does not replace that of the first
    head, *running = state.lines(seconds=90, planned=1000)
    assert head.startswith("3 of 20 jobs done, 60% of all rollout steps, 1:30 so far, about 60 s left; log: ")
    assert running == [
        "  grpo 3 seeds  40/100  reward 0.47  entropy 1.836 nats  clipped 6.63%  1:58 left",
        "  id 3 seeds    10/50  reward 0.45  entropy 1.948 nats  clipped 7.30%  1:07 left",
    ]


@pytest.mark.parametrize(("text", "planned", "words"), [
    ("", 600, "jobs are being prepared, 1:00 so far, about 9 minutes left by the plan"),
    ("", 0, "jobs are being prepared, 1:00 so far, time left unknown"),
    (PLAN, 30, "jobs are being prepared, 0% of all rollout steps, 1:00 so far, about 0 s left by the plan"),
])  # fmt: skip
def test_before_the_pace_is_known_the_plan_says_what_is_left(text, planned, words):
    assert after(text).lines(60, planned)[0].startswith(words)


def test_after_the_last_training_no_time_is_promised():
    line = "[grpo 1 seeds] 9/9  reward 0.47  entropy 1.836 nats  clipped 6.63%  0.54/s  0:00 left\n"
    state = after("runs  1 method x 1 seed, 1 of 1 trainings left\nsteps  9 rollout batches\n" + line)
    assert "1:00 so far, trainings are done, evaluations and reports are left;" in state.lines(60, 90)[0]


def test_a_resumed_training_counts_from_where_it_is():
    line = "[grpo 2 seeds] {}/100  reward 0.47  entropy 1.836 nats  clipped 6.63%  0.54/s  1:58 left\n"
    assert after(PLAN + line.format(60) + line.format(20)).worked == 40


def test_a_failure_names_the_rule_its_last_lines_and_the_command_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text("".join(f"line {i}\n" for i in range(30)) + "dynclip: the disk is full\n")
    state = after(
        "[Thu Nov 26 17:59:37 2026]\nError in rule train:\n    message: None\n    jobid: 0\n"
        "    log: train.log (check log file(s) for error details)\n    shell:\n        exec python\n"
    )
    said = failure(state, ["methods=grpo,id", "set=a b"])
    assert said[0] == "rule train failed; the end of train.log:"
    assert said[-3] == "  dynclip: the disk is full" and "  line 5" not in said
    assert said[-1] == "finished jobs are kept; to go on: dynclip reproduce methods=grpo,id 'set=a b'"


def test_without_a_failed_job_the_last_lines_of_snakemake_are_shown():
    said = failure(after("LockException:\nError: Directory cannot be locked.\n"), [])
    assert said[1:3] == ["  LockException:", "  Error: Directory cannot be locked."]


def test_a_line_that_is_being_written_is_read_later(tmp_path):
    file = tmp_path / "log"
    with file.open("w") as out, file.open() as log:
        out.write("one\ntw")
        out.flush()
        assert list(whole_lines(log)) == ["one\n"]
        out.write("o\n")
        out.flush()
        assert list(whole_lines(log)) == ["two\n"]
