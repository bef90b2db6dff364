"""Hidden units: which axes share them, how to reorder, prune and remove them.

A tie says which axes of which parameters index the same hidden units, such as
the outputs of one layer and the inputs of the next. `infer_ties` finds ties in
a function; `permute` reorders units without changing the function, the rules
and regularizers here prune whole units while training, and `slim` removes
units.
"""

from jaxsparse.units.channels import ChannelState
from jaxsparse.units.channels import prune_channels
from jaxsparse.units.folding import fold_constants
from jaxsparse.units.folding import Folded
from jaxsparse.units.group_lasso import add_group_lasso
from jaxsparse.units.group_lasso import prox_group_lasso
from jaxsparse.units.group_lasso import prune_vanished
from jaxsparse.units.inference import check_ties
from jaxsparse.units.inference import infer_ties
from jaxsparse.units.permutation import find_permutation
from jaxsparse.units.permutation import find_permutations
from jaxsparse.units.permutation import permute
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from jaxsparse.units.sensitivity import heads
from jaxsparse.units.sensitivity import keep_units
from jaxsparse.units.sensitivity import neurons
from jaxsparse.units.sensitivity import prune_units
from jaxsparse.units.sensitivity import sensitivity
from jaxsparse.units.sensitivity import unit_saliency
from jaxsparse.units.sensitivity import UnitState
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

__all__ = [
    'add_group_lasso', 'alive', 'ChannelState', 'check_ties', 'Elsewhere',
    'find_permutation', 'find_permutations', 'fold_constants', 'Folded',
    'heads', 'infer_ties', 'keep_units', 'Member', 'neurons', 'permute',
    'prox_group_lasso', 'prune_channels', 'prune_units', 'prune_vanished',
    'sensitivity', 'slim', 'Tie', 'Ties', 'unit_saliency', 'UnitState',
]
