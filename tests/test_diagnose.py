"""`dynclip diagnose`: every format of a log gives the same numbers, and every rule says what it should and no more."""

import json

import pytest

from dynclip.cli.commands import main
from dynclip.report.terminal.diagnose import diagnose
from dynclip.report.terminal.logs import read_log

STEPS = 30
ENTROPY = [1.0 - 0.03 * i for i in range(STEPS)]
TRL = {
    "entropy": 1.0, "reward": 0.3, "clip_ratio/low_mean": 0.02, "clip_ratio/high_mean": 0.03,
    "clip_ratio/region_mean": 0.05, "frac_reward_zero_std": 0.25, "completions/clipped_ratio": 0.05, "grad_norm": 0.4,
    "learning_rate": 1e-6, "loss": -0.01, "kl": 0.02,
}  # fmt: skip


def trl(tmp_path, **changes):
    """A trainer_state.json whose rows are TRL's with changes: a number, or a list of them by step."""
    rows = []
    for i in range(STEPS):
        row = {key: value[i] if isinstance(value, list) else value for key, value in (TRL | changes).items()}
        rows.append({key: value for key, value in row.items() if value is not None} | {"step": i + 1})
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": STEPS, "log_history": [*rows, {"train_runtime": 10.0, "step": STEPS}]}))
    return path


def said(path):
    return diagnose(path, log=lambda line: None)


def warnings(path):
    return [each.text for each in said(path) if each.warns]


def verl_line(step, prefix="", number="{}"):
    values = {
        "actor/entropy": ENTROPY[step], "actor/pg_clipfrac": 0.05, "actor/pg_clipfrac_lower": 0.0,
        "actor/ppo_kl": 0.001, "critic/score/mean": 0.1, "critic/rewards/mean": 0.3,
        "response_length/clip_ratio": 0.05, "actor/grad_norm": 0.4, "actor/lr": 1e-6,
    }  # fmt: skip
    return f"{prefix}step:{step} - " + " - ".join(f"{name}:{number.format(value)}" for name, value in values.items())


def test_trl_verl_csv_and_own_logs_give_the_same_series(tmp_path):
    files = {"TRL": trl(tmp_path, entropy=ENTROPY)}
    files["verl"] = tmp_path / "console.log"
    lines = [
        verl_line(i, "\x1b[36m(TaskRunner pid=2617997)\x1b[0m ", "np.float64({})" if i % 2 else "{}")
        for i in range(STEPS)
    ]
    files["verl"].write_text(
        "Training Progress:   1%|          | 1/140 [00:49<1:53:43, 49.09s/it]\n" + "\n".join(lines)
    )
    files["verl's file logger"] = tmp_path / "metrics.log"
    files["verl's file logger"].write_text(
        "".join(
            json.dumps({"step": i, "data": {"actor/entropy": value, "critic/rewards/mean": 0.3}}) + "\n"
            for i, value in enumerate(ENTROPY)
        )
        + '{"step": 30, "da'  # killed while it wrote
    )
    files["CSV"] = tmp_path / "export.csv"
    files["CSV"].write_text(
        "Step,my-run - train/entropy,my-run - train/entropy__MIN,my-run - train/reward\n"
        + "".join(f"{i},{value},,0.3\n" for i, value in enumerate(ENTROPY))
    )
    files["dynclip"] = tmp_path / "run" / "metrics.jsonl"
    files["dynclip"].parent.mkdir()
    files["dynclip"].write_text(
        "".join(
            json.dumps({"step": i, "policy/entropy": value, "train/reward": 0.3}) + "\n"
            for i, value in enumerate(ENTROPY)
        )
    )
    for kind, path in files.items():
        log = read_log(path)
        assert log.kind == kind.split("'")[0], path
        assert log.series["entropy"] == pytest.approx(ENTROPY) and log.series["reward"] == [0.3] * STEPS
    assert read_log(tmp_path / "run").series == read_log(files["dynclip"]).series
    assert read_log(files["verl"]).series["clip"] == [0.05] * STEPS


def test_the_newest_checkpoint_of_a_trl_folder_is_read(tmp_path):
    for step, reward in ((5, 0.1), (10, 0.2)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        trl(folder, reward=reward)
    assert read_log(tmp_path).series["reward"][0] == 0.2


def test_an_ordinary_run_has_no_warning(tmp_path):
    path = trl(tmp_path)
    assert warnings(path) == []
    assert "Clipped tokens: 5 % on average (2 % below, 3 % above)" in said(path)[0].text


@pytest.mark.parametrize(("changes", "words"), [
    (dict.fromkeys(("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"), 0.0),
     "No token is ever clipped, in any step: most likely each rollout batch gets one update"),
    ({"clip_ratio/low_mean": 0.001, "clip_ratio/high_mean": 0.0, "clip_ratio/region_mean": 0.001},
     "That is below 1 %: another bound would hardly change this run"),
    ({"clip_ratio/region_mean": 0.4}, "That is above 20 %"),
    (dict.fromkeys(("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")),
     "No clipped share is logged"),
    ({"entropy": ENTROPY}, "it collapses; it is below half of its start from logged step 19 of 30 on."),
    ({"entropy": [0.15 - 0.004 * i for i in range(STEPS)]}, "and ends below 0.1 nats"),
    ({"entropy": 0.08}, "It starts below 0.1 nats: the policy is nearly deterministic before training."),
    ({"entropy": [0.5 + 0.05 * i for i in range(STEPS)]}, "it grows. Look at samples"),
    ({"frac_reward_zero_std": 0.8}, "80 % of the groups have one reward for all completions and no gradient: problems "
     "are too hard"),
    ({"frac_reward_zero_std": 0.8, "reward": 0.9}, "problems are too easy"),
    ({"completions/clipped_ratio": 0.6}, "60 % of the completions are cut off"),
    ({"sampling/sampling_logp_difference/mean": 0.05}, "Sampler and trainer differ by 0.05 on average"),
    ({"grad_norm": [float("nan"), *[0.4] * (STEPS - 1)]}, "Not a number in some steps: grad_norm"),
])  # fmt: skip
def test_each_rule_warns_about_its_own_case_alone(tmp_path, changes, words):
    (warning,) = warnings(trl(tmp_path, **changes))
    assert words in warning


def test_ratios_of_one_are_told_from_ratios_that_move_without_being_clipped(tmp_path):
    still = {"policy/entropy": 1.0, "clip/low_fraction": 0.0, "clip/high_fraction": 0.0, "policy/kl_old": 0.0}
    moving = still | {"policy/kl_old": 1e-3, "policy/ratio_max": 1.1}
    texts = []
    for name, row in (("still", still), ("moving", moving)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"step": i} | row) + "\n" for i in range(STEPS)))
        texts.append(warnings(path)[0])
    assert "and the ratios are 1" in texts[0] and "below 1 %" in texts[1] and "one update" not in texts[1]


def test_the_dual_clip_of_verl_is_noticed(tmp_path):
    path = tmp_path / "log"
    path.write_text("\n".join(verl_line(i).replace("_lower:0.0", "_lower:0.01") for i in range(5)))
    assert any("dual clip cuts 1 % of the tokens" in text for text in warnings(path))


@pytest.mark.parametrize("content", ["hello\n", "", '{"loss": 1.0}\n', "a,b\n1,2\n", "{broken", "[1, 2]"])
def test_what_is_no_log_is_refused_in_one_line(tmp_path, content, capsys):
    path = tmp_path / "file"
    path.write_text(content)
    assert main(["diagnose", str(path)]) == 2
    error = capsys.readouterr().err
    assert "no known metric in it; expected TRL's trainer_state.json" in error and error.count("\n") == 1


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path / "none")]) == 2
    assert "none: cannot be read (FileNotFoundError)" in capsys.readouterr().err
