"""Flows: how pruned weights take part in the forward pass and in updates.

With mask `m`, weight `w` and the gradient `g` at the sparse point, the
parameters under the masks,

  forward   w~ = w * (m + a * (1 - m))
  backward  g <- g * (m + b * (1 - m)) + c * (1 - m) * w

A hard flow also sets updates so that pruned weights become exactly zero.

| flow | a | b | c | pruned weights become zero |
|---|---|---|---|---|
| `hard` | 0 | 0 | 0 | yes |
| `ste` | 0 | 1 | 0 | |
| `sr_ste` | 0 | 1 | 2e-4 | |
| `mdgf` | d(t) | 1, or d(t) | 0 | |
| `top_kast` | 0 | 1 on a larger set, 0 outside | | |

`soft_threshold` also shrinks the kept weights; its forward pass is
`w~ = scale * sign(w) * max(|w| - t, 0)`.

A flow consists of plain optax transforms. They take `masks` as an extra
argument of `update`, and work in any `optax.chain`.
"""

from jaxsparse.flows.kinds import apply_masks
from jaxsparse.flows.kinds import Flow
from jaxsparse.flows.kinds import hard
from jaxsparse.flows.kinds import mdgf
from jaxsparse.flows.kinds import sr_ste
from jaxsparse.flows.kinds import ste
from jaxsparse.flows.kinds import top_kast
from jaxsparse.flows.resetting import reset_state
from jaxsparse.flows.sampling import mvue24
from jaxsparse.flows.sampling import sampled_matmul
from jaxsparse.flows.thresholds import soft_threshold
from jaxsparse.flows.thresholds import SoftThreshold
from jaxsparse.flows.transforms import add_exploration_decay
from jaxsparse.flows.transforms import add_pruned_decay
from jaxsparse.flows.transforms import CountState
from jaxsparse.flows.transforms import gain_at
from jaxsparse.flows.transforms import gate_gradients
from jaxsparse.flows.transforms import HeldState
from jaxsparse.flows.transforms import hold_steps
from jaxsparse.flows.transforms import project_updates
from jaxsparse.flows.transforms import Transform
from jaxsparse.flows.transforms import value_at

__all__ = [
    'apply_masks',
    'Flow',
    'hard',
    'mdgf',
    'soft_threshold',
    'SoftThreshold',
    'sr_ste',
    'ste',
    'top_kast',
    'add_exploration_decay',
    'add_pruned_decay',
    'CountState',
    'gain_at',
    'gate_gradients',
    'HeldState',
    'hold_steps',
    'mvue24',
    'sampled_matmul',
    'project_updates',
    'reset_state',
    'Transform',
    'value_at',
]
