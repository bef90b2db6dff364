"""Tools around a train step: measurements, rehearsals, hooks.

`observe` measures mask flips, gradient noise and exploration inside the
optimizer. `rehearse` runs a rule and a flow without a model. `check_resume`
warns if a restored state will not reach the target sparsity. `Hooks` connect a
sparsified optimizer to a training loop whose code you cannot change.
"""

from jaxsparse.training.hooks import Hooks
from jaxsparse.training.observation import observe
from jaxsparse.training.observation import observed
from jaxsparse.training.observation import ObservedState
from jaxsparse.training.observation import rehearse
from jaxsparse.training.observation import Statistics
from jaxsparse.training.resuming import check_resume

__all__ = [
    'check_resume', 'Hooks', 'observe', 'observed', 'ObservedState', 'rehearse',
    'Statistics',
]
