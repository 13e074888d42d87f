"""TRL's training script with one name and one argument changed: GRPO with the method ID on your model and data.

    python docs/trl_example.py --model_name_or_path MODEL --dataset_name DATASET --output_dir out \
        --steps_per_generation 16 --gradient_accumulation_steps 1

The data set has columns `prompt` and `answer`. All options are TRL's; `dynclip_options={...}` takes the method's.
"""

from datasets import load_dataset
from trl import GRPOConfig, ModelConfig, ScriptArguments, TrlParser

from dynclip.trl.trainer import DynClipTrainer


def correct(completions, answer, **_):
    return [float(text.strip().endswith(end)) for text, end in zip(completions, answer, strict=True)]


script, config, model = TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config()
trainer = DynClipTrainer(
    model=model.model_name_or_path,
    reward_funcs=correct,
    args=config,
    train_dataset=load_dataset(script.dataset_name, split=script.dataset_train_split),
    dynclip_method="id",
)
trainer.train()
