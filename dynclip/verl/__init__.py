"""dynclip inside verl 0.9.1. Importing this package registers everything, and nothing else of dynclip imports verl.

verl loads it by its plugin entry point (`pip install` of dynclip is enough), or as
`actor_rollout_ref.model.external_lib=dynclip.verl`. Then

1) `policy_loss.loss_mode=dynclip_<name>` is a policy loss of verl, for every method of `dynclip.METHODS` (`losses`);
2) `policy_loss._target_=dynclip.verl.PolicyLossConfig` lets `policy_loss.dynclip_options` hold a method's options;
3) `trainer.v1.trainer_mode=dynclip_sync` is verl's synchronous trainer, extended (`trainer`): step count and controller
   state travel to the workers as non-tensor data of the batch. Controllers live on the driver, and verl's checkpoints
   hold their state.

docs/peers.md compares the options of dynclip, TRL and verl, and says what was checked without a GPU.
"""

from dynclip.verl.losses import PolicyLossConfig
from dynclip.verl.plugin import register

register()

__all__ = ["PolicyLossConfig"]
