"""A small synthetic study in the project's file formats, for the tests of tables, figures, report and tracking."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from dynclip.runtime.files import seal, sha256, write_json
from evals.metrics import numbers_of

BENCHMARKS = ("facts", "worded")
ENVIRONMENT = {
    "python": "3.11.9", "torch": "2.13.0", "trl": "1.16.0", "transformers": "5.17.0", "cpu": "Test <CPU> & Co",
    "cores": 2, "git_commit": "0123456789abcdef", "git_dirty": False,
}  # fmt: skip
PROTOCOL = {
    "loss aggregation": "dapo", "dual clip": "None", "epochs per rollout batch": "2", "data order": "by seed",
}  # fmt: skip
SPEED = {"grpo": 1.0, "id": 0.8, "od": 0.9}  # how fast a method's entropy falls


def write_study(results: Path, methods=("grpo", "id", "od"), seeds=(0, 1, 2), steps=12, k=4, problems=10) -> Path:
    """Write runs, samples and scores under `results`. The random numbers depend on names and seeds alone."""
    checkpoints = {f"step{steps // 3}": steps // 3, "final": steps} if steps >= 3 else {"final": steps}
    base_digest = _seal(results / "base", b"base")
    _write_data(results, problems)
    for benchmark in BENCHMARKS:
        write_score(results, "base", 0, "final", 0, benchmark, k, problems, 0.4, base_digest)
    for method in methods:
        for seed in seeds:
            write_run(results, method, seed, steps, sorted(checkpoints.values()), base_digest)
            for label, step in checkpoints.items():
                folder = results / f"runs/{method}/seed{seed}/checkpoints/step{step}"
                digest = _seal(folder, f"{method} {seed} {step}".encode())
                for benchmark in BENCHMARKS:
                    rate = 0.5 + 0.2 * step / steps + 0.03 * (method == "id")
                    write_score(results, method, seed, label, step, benchmark, k, problems, rate, digest)
    return results


FIVE = ("grpo", "clip_higher", "id", "did", "od")
GAIN = {"grpo": 0.0, "clip_higher": 0.012, "id": 0.011, "did": 0.04, "od": 0.011}  # of pass@1 at the end
KEPT = {"grpo": 0.0, "clip_higher": -0.004, "id": 0.03, "did": -0.003, "od": 0.0}  # nats of entropy


def write_world(results: Path, methods=FIVE, seeds=tuple(range(20)), steps=60, start=2.1, end=0.2) -> Path:
    """Write a study of a world whose seeds have their own base policy and problems, scored exactly.

    Entropy falls from `start` to `end` nats. Worlds named worded record decisive and neutral tokens apart.
    """
    early = round(0.3 * steps)
    digest, (world, *_) = hashlib.sha256(b"base").hexdigest(), results.name.split("_")
    for seed in seeds:
        rng = _rng(world, seed)
        base = float(np.clip(rng.normal(0.05, 0.015), 0.01, 0.2))
        easy, level = rng.normal(0, 0.04), rng.normal(0, 0.05)
        write_exact(results, "base", seed, "final", 0, world, base, digest)
        for method in methods:
            own = _rng(world, method, seed)
            write_run(results, method, seed, steps, [early, steps], digest)
            _collapse(results / f"runs/{method}/seed{seed}/metrics.jsonl", method, world, start, end, level, own)
            for label, step, gain in ((f"step{early}", early, 0.25), ("final", steps, 0.6)):
                rate = base + gain + easy + GAIN[method] * step / steps + own.normal(0, 0.015)
                _seal(folder := results / f"runs/{method}/seed{seed}/checkpoints/step{step}", f"{folder}".encode())
                write_exact(results, method, seed, label, step, world, rate, _digest(f"{folder}".encode()))
    return results


def _collapse(path: Path, method: str, world: str, start: float, end: float, level: float, rng) -> None:
    """Rewrite the curves of a run: entropy falls to `end`, faster at first; words split it by kind of token."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        share = row["step"] / max(1, len(rows) - 1)
        entropy = end + (start - end) * math.exp(-5 * share) * (1 + level)
        entropy += KEPT[method] * math.sin(math.pi * share) + rng.normal(0, 0.01)
        row |= {
            "policy/entropy": entropy,
            "train/reward": 0.05 + 0.6 * (1 - math.exp(-3 * share)) + rng.normal(0, 0.02),
        }
        if method == "od":
            row["clip/state"] = float(-1 if share < 0.05 else share > 0.7 + 2 * level)
        if world == "worded":
            row |= {"policy/entropy_decisive": 0.5 * entropy, "policy/entropy_neutral": 1.4 - 0.3 * share}
            row |= {f"clip/{bound}_fraction_{kind}": 0.01 + 0.02 * (kind == "decisive") * share
                    for bound in ("low", "high") for kind in ("decisive", "neutral")}  # fmt: skip
    write_rows(path.parent, rows)


def write_rows(run: Path, rows: list[dict]) -> None:
    """Make `rows` the metrics of a run folder, as if it had been trained so."""
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(run / "run.json", metrics_sha256=sha256(run / "metrics.jsonl"))


def edit(path: Path, **changes) -> None:
    """Write a record with other fields, as if it had been made so."""
    write_json(path, seal(json.loads(path.read_text()) | changes))


def write_exact(results, method, seed, label, step, benchmark, rate, model_digest, problems=12) -> Path:
    """A score file whose per-problem numbers are success probabilities of the seed's own problems."""
    hard = _rng(benchmark, seed).normal(0, 0.1, problems)
    chances = [float(c) for c in np.clip(rate + hard - hard.mean(), 0.001, 0.999)]
    names = [f"{benchmark}-{seed}-{number:04d}" for number in range(problems)]
    stored = results / "samples" / method / f"seed{seed}" / label / f"{benchmark}.parquet"
    stored.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"problem_id": n, "success": c, "entropy": 2.0, "tokens": 7.0} for n, c in zip(names, chances, strict=True)]
    pd.DataFrame(rows).to_parquet(stored, index=False)
    record = {
        "scale": results.name, "method": method, "seed": seed, "checkpoint": label, "step": step,
        "benchmark": benchmark, "k": 1, "n_problems": problems, **numbers_of(rows),
        "samples": {"path": str(stored), "sha256": sha256(stored), "rows": problems},
        "model": {"path": "elsewhere", "sha256": model_digest}, "sampling": {"temperature": 1.0, "seed": 7},
        "seconds": 1.0, "environment": ENVIRONMENT,
    }  # fmt: skip
    return write_json(results / "scores" / method / f"seed{seed}" / label / f"{benchmark}.json", seal(record))


def write_run(results, method, seed, steps, checkpoints, base_digest) -> None:
    rng = _rng("run", seed)  # common random numbers: part of the noise is the same for every method
    own = _rng("run", method, seed)
    folder = results / "runs" / method / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in range(steps):
        share = step / max(1, steps - 1)
        noise = rng.normal(0, 0.02, 2) + own.normal(0, 0.02, 2)
        entropy = 0.2 + 0.35 * math.exp(-3 * SPEED.get(method, 1.0) * share)
        row = {
            "step": step, "train/reward": 0.4 + 0.4 * share + noise[0], "train/loss": 0.01 * noise[1],
            "train/grad_norm": 1 - 0.5 * share, "train/lr": 3e-4, "train/tokens": 640.0 * (step + 1),
            "train/completion_length": 20.0, "train/truncated": 0.01,
            "policy/entropy": entropy + noise[1] / 4,
            "policy/ratio_max": 1.5, "policy/kl_old": 0.001, "clip/low_fraction": 0.004 + 0.002 * share,
            "clip/high_fraction": 0.006, "clip/eps_low_mean": 0.2, "clip/eps_high_mean": 0.2 + 0.1 * share,
            "region/E1": 0.4, "region/E2": 0.3, "region/E3": 0.2, "region/E4": 0.1,
            "time/rollout": 0.1, "time/update": 0.4 + 0.01 * seed,
            "time/step": 0.5 + 0.01 * seed, "sys/memory": 0.9,
        }  # fmt: skip
        if method == "od":
            row["clip/state"] = float(-1 if share < 0.3 else share > 0.6)
        rows.append(row)
    record = {
        "scale": results.name, "method": method, "options": {"epsilon": 0.2}, "seed": seed, "steps": steps,
        "updates_per_rollout": 8, "state": "finished", "fingerprint": f"fp-{method}-{seed}",
        "base_model_sha256": base_digest, "data_sha256": "d" * 64, "checkpoints": checkpoints,
        "seconds": steps * 0.5, "environment": ENVIRONMENT, "protocol": PROTOCOL,
    }  # fmt: skip
    write_json(folder / "run.json", record)
    write_rows(folder, rows)


def write_score(results, method, seed, label, step, benchmark, k, problems, rate, model_digest) -> Path:
    rng = _rng(method, seed, label, benchmark)
    hard = _rng(benchmark).normal(0, 0.15, problems)
    rows = []
    for number in range(problems):
        correct = rng.random(k) < np.clip(rate + hard[number], 0.02, 0.98)
        name = f"{benchmark}-{number:04d}"
        for index, right in enumerate(correct):
            text = f"{number} + {index} = <script>alert('{method}')</script> & done" if right else "no idea <b>"
            status = "correct" if right else "wrong"
            rows.append(
                {"problem_id": name, "index": index, "text": text, "tokens": 20, "finish": "stop",
                 "status": status, "correct": bool(right), "answer": str(index), "candidate": str(index),
                 "flexible": bool(right or index % 2)}
            )  # fmt: skip
    stored = results / "samples" / method / f"seed{seed}" / label / f"{benchmark}.parquet"
    stored.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(stored, index=False)
    record = {
        "scale": results.name, "method": method, "seed": seed, "checkpoint": label, "step": step,
        "benchmark": benchmark, "k": k, "n_problems": problems, **numbers_of(rows),
        "samples": {"path": str(stored), "sha256": sha256(stored), "rows": len(rows)},
        "model": {"path": "elsewhere", "sha256": model_digest},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 48, "seed": 7},
        "seconds": 1.0, "environment": ENVIRONMENT,
    }  # fmt: skip
    return write_json(results / "scores" / method / f"seed{seed}" / label / f"{benchmark}.json", seal(record))


def _write_data(results: Path, problems: int) -> None:
    (results / "data").mkdir(parents=True, exist_ok=True)
    for benchmark in BENCHMARKS:
        rows = [
            {"id": f"{benchmark}-{i:04d}", "problem": f"what is {i} < 3 ?", "answer": str(i),
             "level": 1, "subject": "x"}
            for i in range(problems)
        ]  # fmt: skip
        (results / "data" / f"{benchmark}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = {path.name: {"rows": problems, "sha256": sha256(path)} for path in (results / "data").glob("*.jsonl")}
    write_json(results / "data" / "manifest.json", seal({"files": files}))


def _seal(folder: Path, content: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    digest = _digest(content)
    files = {"model.safetensors": content, "config.json": b"{}"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    listed = {name: {"sha256": _digest(data), "bytes": len(data)} for name, data in files.items()}
    write_json(folder / "model.json", {"files": listed})
    return digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _rng(*names) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "big"))
