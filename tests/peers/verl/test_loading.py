"""verl finds dynclip by each of its routes, in processes of their own; and the documented command starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import actor_of, compose_run

from dynclip.methods.registry import METHODS
from dynclip.verl import losses as adapter
from dynclip.verl.trainer import check_settings

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "peers.md"
LOADED = """
import sys, verl
assert "dynclip.verl" in sys.modules
assert "verl.workers.engine_workers" not in sys.modules and "verl.trainer.ppo.v1" not in sys.modules, "not light"
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
import dynclip
assert {"dynclip_" + name for name in dynclip.METHODS} <= set(POLICY_LOSS_REGISTRY)
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
assert issubclass(get_trainer_cls("dynclip_sync"), PPOTrainerSync)
from verl.workers import engine_workers
assert engine_workers.ppo_loss.__wrapped__ is sys.modules["verl.workers.utils.losses"].ppo_loss
print("loaded")
"""
MODULE = """
import sys, verl
assert "dynclip_id" in sys.modules["verl.trainer.ppo.core_algos"].POLICY_LOSS_REGISTRY
assert "verl.trainer.ppo.v1.trainer_sync" in sys.meta_path[0].actions
print("loaded")
"""
WORKER = """
import verl
from verl.workers import engine_workers
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
assert "dynclip_id" not in POLICY_LOSS_REGISTRY and not hasattr(engine_workers.ppo_loss, "__wrapped__")
from verl.utils.import_utils import import_external_libs
import_external_libs("dynclip.verl")  # what HFModelConfig does with model.external_lib
assert "dynclip_id" in POLICY_LOSS_REGISTRY and hasattr(engine_workers.ppo_loss, "__wrapped__")
print("loaded")
"""
BROKEN = """
import sys
sys.modules["dynclip.methods"] = None  # an error in the plugin
import verl
from verl.trainer.ppo.core_algos import get_policy_loss_fn
try:
    get_policy_loss_fn("dynclip_id")
except ValueError as error:
    print(error)
try:
    import dynclip.verl
except ImportError as error:
    print("import dynclip.verl:", error)
"""


def run(code: str, **variables: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    outcome = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=1800)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome.stdout


def test_the_entry_point_loads_losses_at_once_and_trainer_and_workers_with_verls_own():
    assert run(LOADED, VERL_USE_EXTERNAL_PLUGINS="auto").splitlines()[-1] == "loaded"


def test_an_external_module_registers_the_losses_too():
    variables = {"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": "dynclip.verl"}
    assert run(MODULE, **variables).splitlines()[-1] == "loaded"


def test_external_lib_reaches_a_worker_that_is_already_imported():
    assert run(WORKER, VERL_USE_EXTERNAL_PLUGINS="none").splitlines()[-1] == "loaded"


def test_verl_hides_an_error_in_a_plugin_and_importing_it_shows_it():
    lines = run(BROKEN, VERL_USE_EXTERNAL_PLUGINS="auto").splitlines()
    assert lines[-2].startswith("Unsupported loss mode: dynclip_id")
    assert lines[-1].startswith("import dynclip.verl:") and "dynclip.methods" in lines[-1]


def documented_command() -> list[str]:
    """The words of the verl command in docs/peers.md."""
    block = re.search(r"```sh\n(python -m verl\.trainer\.main_ppo.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block and len(block[1].splitlines()) <= 15
    return block[1].replace("\\\n", " ").split()


def test_the_documented_command_is_a_configuration_that_verl_takes():
    words = documented_command()
    config = compose_run(words[3:])
    name, options = check_settings(config)
    actor = actor_of(config)
    assert isinstance(actor.policy_loss, adapter.PolicyLossConfig)
    assert actor.policy_loss.loss_mode == f"dynclip_{name}" and options
    assert adapter.method_options(name, actor.policy_loss.dynclip_options) == options
    assert config.data.train_batch_size > actor.ppo_mini_batch_size  # clipping can act


def test_the_documented_command_reaches_the_trainer_of_this_project(ray_folder):
    # The whole of main_ppo but the models: Hydra, Ray, the driver's process, the queue, the trainer's construction,
    # where a method that verl cannot serve is refused.
    words = [sys.executable, *documented_command()[1:]]
    words += ["actor_rollout_ref.actor.policy_loss.loss_mode=dynclip_aent", "hydra.run.dir=."]
    words += ["transfer_queue.backend.SimpleStorage.num_data_storage_units=1", "ray_kwargs.ray_init.num_cpus=4"]
    words += ["+ray_kwargs.ray_init.include_dashboard=False", f"+ray_kwargs.ray_init._temp_dir={ray_folder}"]
    outcome = subprocess.run(words, cwd=ray_folder, capture_output=True, text=True, timeout=1800)
    assert outcome.returncode != 0
    assert "dynclip_aent: needs clamped_entropy" in outcome.stderr, outcome.stderr[-3000:]
    assert "TaskRunnerV1" in outcome.stderr


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_policy_loss(name):
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    assert get_policy_loss_fn(f"dynclip_{name}").__doc__ == METHODS[name].change
