"""What each kind of job asks of a cluster or of Snakemake: cores, memory, GPUs, time."""

from dataclasses import dataclass

from dynclip.runtime import hardware
from dynclip.studies.execution import processes_here
from dynclip.studies.scales import HubPolicy, Study


@dataclass(frozen=True)
class Needs:
    """What one job of a rule asks for. A limit of its own makes no run on one machine slower: only `threads` and `gpus`
    decide there what runs side by side."""

    threads: int
    gpus: int
    memory_mib: int  # of the host
    minutes: int  # of the first attempt

    def limit(self, attempt: int) -> int:
        """Minutes of an attempt, the first being 1: every retry asks for as much more, in case time ran out."""
        return self.minutes * attempt


# Passed to sbatch by Snakemake's SLURM plugin: SIGTERM this many seconds before the time limit. A training then
# finishes its rollout step (246 s at the paper_7b scale on 8 H100, by the paper's hours) and writes a checkpoint.
SLURM_SIGNAL = "--signal=TERM@600"


def train_resources(study: Study) -> dict[str, int | str]:
    """GPUs and machines of the rule `train`, in the words of Snakemake's SLURM plugin.

    On several machines the job's command starts a task on each itself (`dynclip.training.processes.machines`), which
    the plugin calls an MPI job; GPUs are then asked for by machine, since the plugin only knows a sum, which SLURM may
    spread unevenly.
    """
    execution = study.scale.execution
    if execution.nodes == 1:
        return {"gpu": execution.gpus, "nodes": 1, "slurm_extra": SLURM_SIGNAL}
    each = f" --gpus-per-node={execution.gpus}" if execution.gpus else ""
    extra = f"{SLURM_SIGNAL} --ntasks-per-node=1{each}"
    return {"nodes": execution.nodes, "tasks": execution.nodes, "mpi": "srun", "slurm_extra": extra}


# Host memory of one process: interpreter, torch, CUDA and the sampling engine, without weights. Tiny policies were
# measured at 1.5 GiB; a language model's share is an upper guess, not measured.
PROCESS_MIB, TINY_PROCESS_MIB = 12 * 1024, 4 * 1024


def needs(study: Study) -> dict[str, Needs]:
    """Rule -> what one job of it asks for on each of its machines, from the scale's numbers. An evaluation and the base
    policy's supervised stage take one GPU where a training takes any."""
    scale = study.scale
    processes, gpus = processes_here(scale.execution), scale.execution.gpus
    one = min(1, gpus)
    if not isinstance(scale.policy, HubPolicy):
        return {
            "warmup": Needs(2, 0, TINY_PROCESS_MIB, 60),
            "train": Needs(scale.threads * processes, 0, TINY_PROCESS_MIB * processes, 60),
            "evaluate": Needs(1, 0, TINY_PROCESS_MIB, 60),
        }
    weights = 0 if scale.policy.random else -(-4 * scale.policy.architecture.parameters // 2**20)
    # Beside its share of the GPUs a process holds the weights once in float32, while it loads them. Without a GPU it
    # holds weights, gradients and two moments. The main process holds another copy while it saves.
    per_process = PROCESS_MIB + (weights if gpus else 4 * weights)
    # The paper's trainings took 17.4 and 27.3 hours on 8 H100.
    minutes = 24 * 60 if gpus > 1 else 4 * 60
    return {
        "warmup": Needs(max(2, scale.threads), one if scale.policy.supervised else 0, per_process + weights, 4 * 60),
        "train": Needs(scale.threads * processes, gpus, per_process * processes + weights, minutes),
        "evaluate": Needs(scale.threads, one, PROCESS_MIB + weights, 8 * 60),
    }


def share_gpus(workflow, study: Study) -> None:
    """Let jobs that run side by side on this machine take no more GPUs together than are visible, where nobody said
    `--resources gpu=...`: Snakemake would take the number for unlimited. A cluster counts its own.

    `workflow` is Snakemake's; it asks for the number of jobs (`nodes`) where they are submitted to a cluster.
    """
    if study.scale.execution.gpus and workflow.nodes is None:
        workflow.global_resources.setdefault("gpu", max(1, len(hardware.gpus())))
