"""A training as one of its processes sees it: python ranks_program.py FOLDER '{"method": …}', under torchrun or alone.

Completions are drawn from the policy by generators of their own, seeded by step, prompt and number in the group: the
global batch does not depend on how many processes share it. Prints one JSON line of rows and state, on the first.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import DistributedType, PartialState
from tiny_trainer import COMPLETION, Rows, trainer

from dynclip.studies.scales import Execution
from dynclip.training.trl_run.config import sharding_options
from dynclip.trl.trainer import DynClipTrainer

GROUP, PROMPTS_PER_STEP = 4, 4


class OwnDraws(DynClipTrainer):
    def __init__(self, *, args, **rest):
        if args.fsdp:
            # accelerate shards over GPUs alone: it is told that these processes have them. torch shards on a CPU.
            assert args.device.type == "cpu"  # which also makes the state
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().__init__(args=args, **rest)
        assert self.is_fsdp_enabled == bool(args.fsdp) and self.is_deepspeed_enabled == bool(args.deepspeed)

    @torch.no_grad()
    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        # Where weights are shared every process takes part in every forward pass: none may stop early.
        shared = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = self.model_wrapped if shared else self.accelerator.unwrap_model(self.model)
        rows = []
        for i, prompt in enumerate(prompt_ids):
            seed = hash((self.rollout_step, *prompt, i % num_generations)) % 2**31
            generator, ids = torch.Generator().manual_seed(seed), list(prompt)
            for _ in range(COMPLETION):
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                ids.append(torch.multinomial(logits.float().softmax(-1), 1, generator=generator).item())
                if ids[-1] in self.eos_token_ids and not shared:
                    break
            drawn = ids[len(prompt) :]
            ends = [place for place, token in enumerate(drawn) if token in self.eos_token_ids]
            rows.append(drawn[: ends[0] + 1] if ends else drawn)
        return rows, None


def main(folder: Path, wish: dict) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    passes = wish.get("passes", 1)
    share = GROUP * PROMPTS_PER_STEP // world // passes
    rows = Rows()
    config = {
        "per_device_train_batch_size": share,
        "steps_per_generation": passes,
        "gradient_accumulation_steps": passes,
        "num_iterations": 4,
        "num_generations": GROUP,
        "max_steps": 4 * wish["steps"],
        "learning_rate": wish.get("learning_rate", 2e-3),
        "save_strategy": "steps" if "save" in wish else "no",
        "save_steps": 4 * wish.get("save", 1),
    }
    # As the paper scale: FSDP2 keeps no activations.
    config |= sharding_options(Execution(processes=world, sharding=wish.get("sharding", "none"), checkpointing=True))
    built = trainer(
        OwnDraws, folder, config, dynclip_method=wish["method"], dynclip_options=wish.get("options"), callbacks=[rows]
    )
    rows.trainer = built
    built.train(resume_from_checkpoint=wish.get("resume"))
    losses = [entry["loss"] for entry in built.state.log_history if "loss" in entry]
    if "export" in wish:
        from dynclip.training.trl_run.recorder import Recorder

        Recorder(built, folder, {}, None).export(Path(wish["export"]))
    state = built.method.state_dict()
    everywhere = [state]
    if world > 1:
        everywhere = [None] * world
        torch.distributed.all_gather_object(everywhere, state)
    if built.accelerator.is_main_process:
        timeless = [{name: v for name, v in row.items() if not name.startswith("time/")} for row in rows.rows]
        print("RESULT " + json.dumps({"losses": losses, "rows": timeless, "states": everywhere}), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
