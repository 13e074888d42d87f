"""The shell script that starts one run of verl, on one machine or on several that Ray joins."""

import shlex
from pathlib import Path

from dynclip.runtime.errors import UserError
from dynclip.studies.scales import RunConfig

HEAD = """\
#!/usr/bin/env bash
#SBATCH --job-name=dynclip-{job}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
# Method {name}, seed {seed}, scale {scale}, in verl {verl}. Written by:
#
#   dynclip launch {words} --methods {name} --seeds {seed} --nodes {nodes}
#
# PYTHON names the interpreter of an environment with verl {verl}, vLLM, flash-attn, math-verify and dynclip:
#
#   PYTHON=/path/to/venv/bin/python {path}
#
# Started again it goes on from its newest checkpoint. Words behind it are further overrides, for example
# trainer.test_freq=20. Under SLURM the same file is a job: sbatch --account=… --time=… {path}
{several}
set -euo pipefail
PYTHON=${{PYTHON:-python}}
OUT={out}
MODEL={model}
fail() {{
  echo "$1" >&2
  exit 2
}}
[ -f "$MODEL/model.json" ] || fail "$MODEL: the base policy is missing; make it with: dynclip warmup "{words_quoted}
"$PYTHON" -c 'import dynclip.verl, math_verify' ||
  fail "$PYTHON: cannot import dynclip.verl and math_verify, see above; set PYTHON to verl's environment"
mkdir -p "$OUT"
# verl empties this file when it starts: a run that goes on writes another one.
export VERL_FILE_LOGGER_PATH="$OUT/metrics-$(date -u +%Y%m%dT%H%M%SZ).jsonl"
"""
SEVERAL = """\
#
# It takes {nodes} machines with {gpus} GPUs each that share this folder's file system. Under SLURM sbatch does it all.
# Without SLURM start Ray by hand, the first machine first, and the run there:
#
#   $PYTHON -m ray.scripts.scripts start --head --port=6379 --num-gpus={gpus}
#   ssh <each other machine> /path/to/venv/bin/python -m ray.scripts.scripts start --address=<first>:6379 \\
#     --num-gpus={gpus}
#   RAY_ADDRESS=<first>:6379 {path}
#
"""
ONE_MACHINE = """\
local=()
if [ -z "${RAY_ADDRESS:-}" ] && [ -n "${SLURM_CPUS_ON_NODE:-}" ]; then
  local=("ray_kwargs.ray_init.num_cpus=$SLURM_CPUS_ON_NODE") # Ray counts the machine's cores, not the job's
fi
"""
MACHINES = """\
local=()
wait_for_gpus() {{
  "$PYTHON" - "$1" <<'END'
import sys, time, ray

wanted, end = int(sys.argv[1]), time.time() + 600
while time.time() < end:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
        found = ray.cluster_resources().get("GPU", 0)
        ray.shutdown()
        if found >= wanted:
            sys.exit()
    except ConnectionError:
        pass
    time.sleep(2)
sys.exit(f"Ray has not found {{wanted}} GPUs within ten minutes")
END
}}
start_ray() {{
  local machine=$1
  shift
  srun --nodes=1 --ntasks=1 --overlap --cpus-per-task="$SLURM_CPUS_ON_NODE" --nodelist="$machine" \\
    "$PYTHON" -m ray.scripts.scripts start "$@" --num-gpus={gpus} --block &
}}
if [ -z "${{RAY_ADDRESS:-}}" ]; then
  [ -n "${{SLURM_JOB_NODELIST:-}}" ] ||
    fail "this run takes {nodes} machines: use sbatch, or start Ray as this file says and set RAY_ADDRESS"
  mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  [ "${{#machines[@]}}" -eq {nodes} ] || fail "this run takes {nodes} machines, the job has ${{#machines[@]}}"
  head=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="${{machines[0]}}" \
    "$PYTHON" -c 'import ray; print(ray.util.get_node_ip_address())')
  export RAY_ADDRESS="$head:${{RAY_PORT:-6379}}"
  trap 'jobs -p | xargs -r kill || true' EXIT
  start_ray "${{machines[0]}}" --head "--node-ip-address=$head" "--port=${{RAY_PORT:-6379}}"
  wait_for_gpus {gpus}
  for machine in "${{machines[@]:1}}"; do
    start_ray "$machine" "--address=$RAY_ADDRESS"
  done
fi
wait_for_gpus {total}
"""
RUN = """\
run=(
{words}
)
"$PYTHON" -m verl.trainer.main_ppo "${{run[@]}}" ${{local[@]+"${{local[@]}}"}} "$@"
for step in {steps}; do
  "$PYTHON" -m verl.model_merger merge --backend fsdp \\
    --local_dir "$OUT/checkpoints/global_step_$step/actor" --target_dir "$OUT/models/step$step"
done
printf 'finished: %s; score one with: dynclip evaluate --model %q --template {template}\\n' \\
  "$OUT/models" "$OUT/models/step{last}"
"""


def require_plain(folder: Path) -> None:
    """Raise UserError for a folder whose name a launch script cannot hold.

    A line break ends a comment of the script, and Hydra replaces ${...} in a value.
    """
    if not str(folder).isprintable() or "${" in str(folder):
        raise UserError(
            f"{folder}: verl's launch scripts cannot hold this path; expected no control character and no ${{, rename "
            "the folder or give another one with --results"
        )


def script(
    config: RunConfig, name: str, seed: int, nodes: int, words: list[str], model: Path, out: Path, verl: str
) -> str:
    """The text of a bash script that runs verl with the overrides `words`, then merges the evaluated checkpoints into
    Hugging Face folders. It refuses, with exit status 2, to start without the base policy or what it imports."""
    gpus = config.scale.execution.gpus
    names = {
        "name": name, "seed": seed, "scale": config.name, "verl": verl, "nodes": nodes, "gpus": gpus,
        "job": f"{config.name}-{name}-seed{seed}", "words": config.overrides, "out": shlex.quote(str(out)),
        "words_quoted": shlex.quote(config.overrides),
        "model": shlex.quote(str(model)), "path": shlex.quote(str(out.with_suffix(".sh"))), "total": gpus * nodes,
    }  # fmt: skip
    several = SEVERAL.format(**names).rstrip("\n") if nodes > 1 else "#"
    steps = sorted(config.checkpoints.values())
    run = RUN.format(
        words="\n".join(f"  {shlex.quote(word)}" for word in words),
        steps=" ".join(map(str, steps)),
        last=steps[-1],
        template=config.scale.template,
    )
    return HEAD.format(**names, several=several) + (MACHINES.format(**names) if nodes > 1 else ONE_MACHINE) + run
