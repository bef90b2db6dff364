"""jaxsparse: a functional sparsity toolkit for JAX.

  Differentiate at the sparse point; update the dense point.

A method is five choices, each a pure function or plain data, and each in a
namespace of its own:

* a **score** (`scores`: `magnitude`, `saliency`, `gradient`, `snip_momentum`,
  ...) says how much a weight matters;
* a **pattern** (`patterns`: `unstructured`, `nm`, `block`, `channel`) says
  which weights are pruned together and which compete with each other;
* a **distribution** (`distributions`: `uniform`, `erk`, `global_threshold`,
  ...) shares sparsity among layers;
* a **schedule** (`schedules`: `one_shot`, `cubic`, ..., `every`) says how much
  and when;
* a **flow** (`flows`: `hard`, `ste`, `sr_ste`, `mdgf`, `top_kast`) says what a
  pruned weight contributes forward, and which gradient it gets.

The first four make a **rule** (`rules`: `prune`, `prune_and_grow`, `lock`,
`stages`, `combine`, ...), and `sparsify(optimizer, rule, flow)` joins a rule
and a flow to any optax optimizer. `methods` has the methods of papers in one
line, for `sparsify(optimizer, method)`. In the train step one line is new,
`sparse_params(params, opt_state)`. On a mesh of devices,
`state_shardings(optimizer, params)` lays the state out beside the weights.

* `masks`: one mask from one array (`select`), and tables (`summary`);
* `graph`: kernels and FLOPs, read off the function itself;
* `units`: hidden units, reordered (`permute`), pruned and removed (`slim`);
* `calibration`: trained weights pruned at once, by statistics of their inputs;
* `packed`: 2:4 and condensed weights, and their products; `jaxsparse.nn`,
  imported by hand because it needs Flax, has them as layers;
* `training`: measurements (`observe`) and hooks for loops of other libraries;
* `recipes`: all of it from a dict or a YAML file.

True means kept, `None` means dense, `sparsity` is the fraction pruned.
"""

from jaxsparse import calibration
from jaxsparse import distributions
from jaxsparse import flows
from jaxsparse import graph
from jaxsparse import masks
from jaxsparse import methods
from jaxsparse import packed
from jaxsparse import patterns
from jaxsparse import recipes
from jaxsparse import rules
from jaxsparse import schedules
from jaxsparse import scopes
from jaxsparse import scores
from jaxsparse import training
from jaxsparse import units
from jaxsparse._version import __version__
from jaxsparse.calibration import one_shot
from jaxsparse.distributions import erk
from jaxsparse.distributions import global_threshold
from jaxsparse.distributions import uniform
from jaxsparse.flows import apply_masks
from jaxsparse.flows import hard
from jaxsparse.flows import mdgf
from jaxsparse.flows import sr_ste
from jaxsparse.flows import ste
from jaxsparse.graph import flops
from jaxsparse.graph import kernel_patterns
from jaxsparse.masks import select
from jaxsparse.masks import summary
from jaxsparse.packed import matmul
from jaxsparse.packed import pack
from jaxsparse.packed import pack_params
from jaxsparse.packed import unpack
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import unstructured
from jaxsparse.placement import state_shardings
from jaxsparse.recipes import from_recipe
from jaxsparse.rules import combine
from jaxsparse.rules import lock
from jaxsparse.rules import prune
from jaxsparse.rules import prune_and_grow
from jaxsparse.rules import stages
from jaxsparse.scores import gradient
from jaxsparse.scores import magnitude
from jaxsparse.scores import saliency
from jaxsparse.scores import snip_momentum
from jaxsparse.training import Hooks
from jaxsparse.training import observe
from jaxsparse.training import observed
from jaxsparse.transform import get_masks
from jaxsparse.transform import Method
from jaxsparse.transform import sparse_params
from jaxsparse.transform import sparsify
from jaxsparse.units import alive
from jaxsparse.units import find_permutations
from jaxsparse.units import infer_ties
from jaxsparse.units import permute
from jaxsparse.units import slim

__all__ = [
    '__version__', 'alive', 'apply_masks', 'block', 'channel', 'combine',
    'distributions', 'erk', 'find_permutations', 'flops', 'flows',
    'from_recipe', 'get_masks', 'global_threshold', 'gradient', 'graph', 'hard',
    'Hooks', 'infer_ties', 'kernel_patterns', 'lock', 'magnitude', 'masks',
    'matmul', 'mdgf', 'Method', 'methods', 'nm', 'observe', 'observed',
    'one_shot', 'pack', 'pack_params', 'packed', 'Pattern', 'patterns',
    'permute', 'prune', 'prune_and_grow', 'recipes', 'rules', 'saliency',
    'schedules', 'scopes', 'scores', 'select', 'slim', 'snip_momentum',
    'sparse_params', 'sparsify', 'sr_ste', 'stages', 'state_shardings', 'ste',
    'summary', 'training', 'uniform', 'units', 'unpack', 'unstructured',
]
