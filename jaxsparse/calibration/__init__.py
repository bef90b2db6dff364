"""One-shot pruning of trained weights, one matrix at a time.

`input_statistics` sums up what each kernel of any JAX function reads. A matrix
`[in, out]` and a statistic of its inputs over calibration data, their squares
or `h`, the sum of `x x^T`, give a mask (`wanda`), or a mask and weights
that make up for what it prunes (`sparsegpt`, `admm`, `alps`). `refit` finds the
best weights under any mask, and `reconstruction_error` says how far outputs are
off. All functions are pure, of arrays: `jax.vmap` takes them over layers and
experts, and outputs may be sharded over devices.

Of whole models, `one_shot` prunes all kernels in turn, and `activations` and
`reap` rank units and experts by what they give.
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
