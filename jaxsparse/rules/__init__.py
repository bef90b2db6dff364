"""Rules decide when masks change, and which weights the new masks keep.

A rule is an `optax.GradientTransformation` whose "updates" are masks. `prune`,
`prune_and_grow`, `lock` and `forward_backward` make masks; `stages`, `combine`
and `progressive` join or wrap rules. The module `base` defines the state that
all rules share, and the building blocks for a rule of your own.
"""

from jaxsparse.rules._combine import combine
from jaxsparse.rules._combine import CombinedState
from jaxsparse.rules._grow import prune_and_grow
from jaxsparse.rules._lock import lock
from jaxsparse.rules._progressive import progressive
from jaxsparse.rules._progressive import ProgressiveState
from jaxsparse.rules._prune import prune
from jaxsparse.rules._stages import stages
from jaxsparse.rules._top_kast import forward_backward
from jaxsparse.rules._top_kast import ForwardBackwardState
from jaxsparse.rules.base import EveryStep
from jaxsparse.rules.base import Patterns
from jaxsparse.rules.base import resolve
from jaxsparse.rules.base import Rule
from jaxsparse.rules.base import RuleState

__all__ = [
    'combine', 'CombinedState', 'EveryStep', 'forward_backward',
    'ForwardBackwardState', 'lock', 'Patterns', 'progressive',
    'ProgressiveState', 'prune', 'prune_and_grow', 'resolve', 'Rule',
    'RuleState', 'stages',
]
