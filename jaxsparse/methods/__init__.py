"""Published methods in one line each, with the defaults of their papers.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.rigl(patterns, 0.9, total_steps=10_000))

Every function takes patterns and the length of training in steps, and returns a
`Method`: a rule and a flow. The modules are

* `nm_training`: N:M from scratch, and N:M after dense training;
* `progressive_gradient_flow`: N:M that is reached gradually;
* `frozen_moment`: N:M after dense training, with Adam's second moment frozen;
* `dynamic_training`: dynamic sparse training;
* `constant_fan_in`: dynamic sparse training in which all neurons of a layer
  read equally many inputs;
* `gradual_regeneration`: gradual pruning with regrowth;
* `alternating`: dense and sparse phases that alternate;
* `split_weights`: a penalty that pulls weights towards a sparse copy;
* `annealed_decay`: pruned weights of a trained network decay to zero;
* `mask_learning`: masks learned by gradient descent, for frozen weights.
"""

from jaxsparse.methods.alternating import ac_dc
from jaxsparse.methods.annealed_decay import cast
from jaxsparse.methods.annealed_decay import GroupScales
from jaxsparse.methods.constant_fan_in import srigl
from jaxsparse.methods.dynamic_training import chase
from jaxsparse.methods.dynamic_training import dsr
from jaxsparse.methods.dynamic_training import mest
from jaxsparse.methods.dynamic_training import rigl
from jaxsparse.methods.dynamic_training import rigl_itop
from jaxsparse.methods.dynamic_training import set_training
from jaxsparse.methods.dynamic_training import snfs
from jaxsparse.methods.frozen_moment import FrozenAdamState
from jaxsparse.methods.frozen_moment import scale_by_frozen_adam
from jaxsparse.methods.frozen_moment import step
from jaxsparse.methods.gradual_regeneration import granet
from jaxsparse.methods.mask_learning import learned_masks
from jaxsparse.methods.mask_learning import LearnedMasks
from jaxsparse.methods.nm_training import s_ste
from jaxsparse.methods.nm_training import sr_ste
from jaxsparse.methods.nm_training import ste
from jaxsparse.methods.nm_training import top_kast
from jaxsparse.methods.nm_training import train_prune_retrain
from jaxsparse.methods.progressive_gradient_flow import mdgf_exponential
from jaxsparse.methods.progressive_gradient_flow import mdgf_linear
from jaxsparse.methods.progressive_gradient_flow import sdgf_geometric
from jaxsparse.methods.progressive_gradient_flow import sdgf_stepwise
from jaxsparse.methods.split_weights import elsa
from jaxsparse.methods.split_weights import ElsaState

__all__ = [
    'ac_dc', 'cast', 'GroupScales',
    'chase', 'dsr', 'elsa', 'ElsaState', 'FrozenAdamState', 'granet',
    'learned_masks', 'LearnedMasks', 'mdgf_exponential', 'mdgf_linear', 'mest',
    'rigl', 'rigl_itop', 's_ste', 'scale_by_frozen_adam', 'sdgf_geometric',
    'sdgf_stepwise', 'set_training', 'snfs', 'sr_ste', 'srigl', 'ste',
    'step', 'top_kast', 'train_prune_retrain',
]
