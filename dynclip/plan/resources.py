"""Cores, memory, GPUs and time that each rule's jobs request from Snakemake and the batch system."""

from dataclasses import dataclass

from dynclip.runtime import hardware
from dynclip.studies.execution import processes_here
from dynclip.studies.scales import HubPolicy, RunConfig


@dataclass(frozen=True)
class Needs:
    """The request of one job of a rule, on each of its machines.

    Without a batch system only `threads` and `gpus` count: they decide what runs side by side.
    """

    threads: int
    gpus: int
    memory_mib: int  # host memory
    minutes: int  # time limit of the first attempt

    def limit(self, attempt: int) -> int:
        """Time limit in minutes of attempt 1, 2, …: each retry gets `minutes` more, in case the time ran out."""
        return self.minutes * attempt


# sbatch option: SIGTERM this many seconds before the time limit. A training then finishes its rollout step and writes a
# checkpoint. By the paper's hours a step of the paper_7b scale takes 246 s on 8 H100.
SLURM_SIGNAL = "--signal=TERM@600"


def train_resources(config: RunConfig) -> dict[str, int | str]:
    """GPUs and machines of the rule `train`, as resources of Snakemake's SLURM plugin.

    On several machines the job's command runs srun itself (`dynclip.training.processes.launch`). The plugin calls that
    an MPI job. GPUs are then requested per machine: the plugin only knows a total, which SLURM may spread unevenly.
    """
    execution = config.scale.execution
    if execution.nodes == 1:
        return {"gpu": execution.gpus, "nodes": 1, "slurm_extra": SLURM_SIGNAL}
    per_node = f" --gpus-per-node={execution.gpus}" if execution.gpus else ""
    extra = f"{SLURM_SIGNAL} --ntasks-per-node=1{per_node}"
    return {"nodes": execution.nodes, "tasks": execution.nodes, "mpi": "srun", "slurm_extra": extra}


# Host memory of one process without weights: interpreter, torch, CUDA, sampling engine. A tiny policy in TRL was
# measured at 1.5 GiB; the number for language models is an upper guess, not measured.
PROCESS_MIB, TINY_PROCESS_MIB = 12 * 1024, 4 * 1024


def needs(config: RunConfig) -> dict[str, Needs]:
    """Rule -> the request of one of its jobs, computed from the scale.

    An evaluation takes one GPU if a training takes any, and so does the base policy's supervised stage. The jobs of a
    synthetic world have one thread, so that as many run side by side as there are cores.
    """
    scale = config.scale
    processes, gpus = processes_here(scale.execution), scale.execution.gpus
    one_gpu = min(1, gpus)
    if not isinstance(scale.policy, HubPolicy):
        return {
            "warmup": Needs(1, one_gpu, TINY_PROCESS_MIB, 60),
            "train": Needs(scale.threads * processes, gpus, TINY_PROCESS_MIB * processes, 60),
            "evaluate": Needs(1, one_gpu, TINY_PROCESS_MIB, 60),
        }
    warmup_gpus = one_gpu if scale.policy.supervised else 0
    weights = 0 if scale.policy.random else -(-4 * scale.policy.architecture.parameters // 2**20)
    # While loading, each process holds the weights in float32 in host memory. Without a GPU it also holds gradients and
    # two moments there. The main process holds one more copy of the weights while it saves.
    per_process = PROCESS_MIB + (weights if gpus else 4 * weights)
    # The paper's trainings took 17.4 and 27.3 hours on 8 H100.
    minutes = 24 * 60 if gpus > 1 else 4 * 60
    return {
        "warmup": Needs(max(2, scale.threads), warmup_gpus, per_process + weights, 4 * 60),
        "train": Needs(scale.threads * processes, gpus, per_process * processes + weights, minutes),
        "evaluate": Needs(scale.threads, one_gpu, PROCESS_MIB + weights, 8 * 60),
    }


def share_gpus(workflow, config: RunConfig) -> None:
    """Limit the GPUs of all jobs on this machine to the visible ones. Snakemake alone has no limit.

    `workflow` is Snakemake's own object. Its `nodes` is set when jobs go to a cluster, which counts GPUs itself.
    """
    if config.scale.execution.gpus and workflow.nodes is None:
        workflow.global_resources.setdefault("gpu", max(1, len(hardware.gpus())))
