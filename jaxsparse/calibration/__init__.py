"""One-shot pruning of trained weights, one matrix at a time.

`input_statistics` sums statistics of the inputs of each kernel of any JAX
function, over calibration data: squares of the inputs, or the matrix `h`, the
sum of `x x^T`. From a matrix `[in, out]` and its statistic, `wanda` makes a
mask; `sparsegpt`, `admm` and `alps` make a mask, and weights that compensate
for the pruned ones. `refit` finds the best weights under any mask, and
`reconstruction_error` measures the error of outputs. All functions are pure
functions of arrays: `jax.vmap` maps them over layers and experts, and outputs
may be sharded over devices.

For whole models, `one_shot` prunes all kernels one after the other.
`activations` and `reap` measure the importance of units and experts by their
outputs.
"""

from jaxsparse.calibration._activations import activations
from jaxsparse.calibration._activations import mean_activation
from jaxsparse.calibration._activations import unit_activations
from jaxsparse.calibration._activations import wanda_score
from jaxsparse.calibration._admm import admm
from jaxsparse.calibration._alps import alps
from jaxsparse.calibration._one_shot import one_shot
from jaxsparse.calibration._one_shot import OneShotState
from jaxsparse.calibration._owl import owl
from jaxsparse.calibration._reap import reap
from jaxsparse.calibration._reconstruction import reconstruction_error
from jaxsparse.calibration._reconstruction import refit
from jaxsparse.calibration._sparsegpt import sparsegpt
from jaxsparse.calibration._statistics import input_statistics
from jaxsparse.calibration._statistics import Statistic
from jaxsparse.calibration._wanda import wanda
from jaxsparse.calibration._windows import reconstruct
from jaxsparse.calibration._windows import ReconstructState

__all__ = [
    'activations', 'admm', 'alps', 'input_statistics', 'mean_activation',
    'one_shot', 'OneShotState', 'owl', 'reap', 'reconstruct',
    'ReconstructState', 'reconstruction_error', 'refit', 'sparsegpt',
    'Statistic', 'unit_activations', 'wanda', 'wanda_score',
]
