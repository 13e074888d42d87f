"""dynclip in verl: importing this package registers every method as the policy loss `dynclip_<name>`."""

from dynclip.verl.losses import PolicyLossConfig
from dynclip.verl.plugin import register

register()

__all__ = ["PolicyLossConfig"]
