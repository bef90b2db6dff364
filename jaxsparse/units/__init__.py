"""Hidden units: finding, reordering, pruning and removing them.

A tie names the axes of parameters that index the same hidden units, such as the
outputs of one layer and the inputs of the next. `infer_ties` finds ties in a
function. `permute` reorders units without changing the function, `prune_units`
and group Lasso prune whole units during training, and `slim` removes units.
"""

from jaxsparse.units._prune_units import prune_units
from jaxsparse.units._prune_units import UnitState
from jaxsparse.units._sizes import sizes
from jaxsparse.units.checking import check_ties
from jaxsparse.units.choice import experts
from jaxsparse.units.choice import heads
from jaxsparse.units.choice import keep_units
from jaxsparse.units.choice import neurons
from jaxsparse.units.folding import fold_constants
from jaxsparse.units.folding import Folded
from jaxsparse.units.group_lasso import add_group_lasso
from jaxsparse.units.group_lasso import prox_group_lasso
from jaxsparse.units.groups import Groups
from jaxsparse.units.importance import Importance
from jaxsparse.units.importance import mean_magnitude
from jaxsparse.units.importance import root_mean_square
from jaxsparse.units.importance import saliency
from jaxsparse.units.importance import sensitivity
from jaxsparse.units.importance import unit_saliency
from jaxsparse.units.inference import infer_ties
from jaxsparse.units.permutation import find_permutation
from jaxsparse.units.permutation import find_permutations
from jaxsparse.units.permutation import permute
from jaxsparse.units.removal import alive
from jaxsparse.units.removal import slim
from jaxsparse.units.ties import Elsewhere
from jaxsparse.units.ties import Member
from jaxsparse.units.ties import Tie
from jaxsparse.units.ties import Ties

__all__ = [
    'add_group_lasso', 'alive', 'check_ties', 'Elsewhere', 'experts',
    'find_permutation', 'find_permutations', 'fold_constants', 'Folded',
    'Groups', 'heads', 'Importance', 'infer_ties', 'keep_units',
    'mean_magnitude', 'Member', 'neurons', 'permute', 'prox_group_lasso',
    'prune_units', 'root_mean_square', 'saliency', 'sensitivity', 'sizes',
    'slim', 'Tie', 'Ties', 'unit_saliency', 'UnitState',
]
