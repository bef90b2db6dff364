"""Published methods in one line each, with the defaults of their papers.

  tx = jaxsparse.sparsify(
      optax.adam(1e-3), methods.rigl(patterns, 0.9, total_steps=10_000))

Every function takes patterns and the length of training in steps, and returns a
`Method`: a rule and a flow. `nm_training` has N:M sparsity from scratch and
after dense training, `progressive_gradient_flow` has N:M that is reached little
by little, and `frozen_moment` N:M after dense training with the step sizes of
that. `dynamic_training` has dynamic sparse training, `constant_fan_in` that of
neurons that read equally many inputs, `gradual_regeneration` prunes and grows
at once, and in `alternating` dense and sparse phases take turns.
`split_weights` draws trained weights to a sparse copy.
"""

from jaxsparse.methods.alternating import ac_dc
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
    'ac_dc', 'chase', 'dsr', 'elsa', 'ElsaState', 'FrozenAdamState', 'granet',
    'learned_masks', 'LearnedMasks', 'mdgf_exponential', 'mdgf_linear', 'mest',
    'rigl', 'rigl_itop', 's_ste', 'scale_by_frozen_adam', 'sdgf_geometric',
    'sdgf_stepwise', 'set_training', 'snfs', 'sr_ste', 'srigl', 'ste',
    'step', 'top_kast', 'train_prune_retrain',
]
