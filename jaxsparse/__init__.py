"""jaxsparse: a functional sparsity toolkit for JAX.

  Differentiate at the sparse point; update the dense point.

A method is five choices, each a pure function or plain data:

* a **score** (`magnitude`, `saliency`, `gradient`, `random`, `snip_momentum`)
  says how much a weight matters;
* a **pattern** (`unstructured`, `nm`, `block`, `channel`) says which weights
  live or die together and who competes with whom;
* a **distribution** (`uniform`, `erk`, `er`, `global_threshold`) shares
  sparsity among layers;
* a **schedule** (`one_shot`, `cubic`, ..., `every`) says how much and when;
* a **flow** (`hard`, `ste`, `sr_ste`, `mdgf`, `top_kast`) says what a pruned
  weight still gives forward and still gets backward.

The first four make a **rule** (`prune`, `prune_and_grow`, `lock`,
`forward_backward`, `prune_channels`, `prune_units`, `prune_vanished`,
`progressive`, `stages` and `combine` of rules), and
`sparsify(optimizer, rule, flow)` joins it to any optax optimizer. In the train
step one line is new, `sparse_params(params, opt_state)`. `recipes` has rule and
flow of a method in one line, `dynamic` the same for dynamic sparse training,
`scopes` who competes with whom there; `observe` measures flips, noise and
exploration, `flops` counts what it costs. `from_recipe` reads all of it from a
dict or a YAML file, and `Hooks` are for a loop that somebody else owns.

From the function itself are read: which parameters are kernels
(`infer_kernels`, `kernel_patterns`) and which of their axes index the same
hidden units (`infer_ties`), so that `permute` may put these in an order in
which N:M keeps more (`find_permutations`), and `slim` may remove those that
nothing reads (`alive`, `fold_constants`). Which these should be, group Lasso
(`prox_group_lasso`) and gradient sensitivity (`sensitivity`, `keep_units`) say.

Weights that are 2:4 `pack` holds in 0.56 of the memory (`pack_params` those of
a tree); `matmul` multiplies with them, by kernels for Hopper GPUs and TPUs;
`training_matmul` trains with them, and `jaxsparse.nn` has them in Flax. Blocks
along outputs and constant fan-in `condense` holds, for XLA on any platform.

True means kept, `None` means dense, `sparsity` is the fraction pruned.
"""

from jaxsparse import dynamic
from jaxsparse import recipes
from jaxsparse import scopes
from jaxsparse.accounting import mask_flips
from jaxsparse.accounting import Summary
from jaxsparse.accounting import summary
from jaxsparse.channels import prune_channels
from jaxsparse.combining import combine
from jaxsparse.condensed import condense
from jaxsparse.condensed import Condensed
from jaxsparse.condensed import uncondense
from jaxsparse.contractions import infer_kernels
from jaxsparse.contractions import Kernel
from jaxsparse.contractions import kernel_patterns
from jaxsparse.contractions import KernelPatterns
from jaxsparse.contractions import Kernels
from jaxsparse.contractions import last_kernels
from jaxsparse.costs import Flops
from jaxsparse.costs import flops
from jaxsparse.distributions import er
from jaxsparse.distributions import erk
from jaxsparse.distributions import global_threshold
from jaxsparse.distributions import uniform
from jaxsparse.flows import add_pruned_decay
from jaxsparse.flows import apply_masks
from jaxsparse.flows import Flow
from jaxsparse.flows import gate_gradients
from jaxsparse.flows import hard
from jaxsparse.flows import hold_steps
from jaxsparse.flows import mdgf
from jaxsparse.flows import project_updates
from jaxsparse.flows import sr_ste
from jaxsparse.flows import ste
from jaxsparse.folding import fold_constants
from jaxsparse.folding import Folded
from jaxsparse.growing import prune_and_grow
from jaxsparse.hooks import Hooks
from jaxsparse.observation import observe
from jaxsparse.observation import observed
from jaxsparse.observation import ObservedState
from jaxsparse.observation import rehearse
from jaxsparse.packed_params import pack_params
from jaxsparse.packed_params import unpack_params
from jaxsparse.packed_sharding import partition_specs
from jaxsparse.packed_sharding import sharded_matmul
from jaxsparse.packing import pack
from jaxsparse.packing import Packed24
from jaxsparse.packing import unpack
from jaxsparse.packing import with_layout
from jaxsparse.patterns import attention
from jaxsparse.patterns import block
from jaxsparse.patterns import channel
from jaxsparse.patterns import nm
from jaxsparse.patterns import Pattern
from jaxsparse.patterns import unstructured
from jaxsparse.permute import find_permutation
from jaxsparse.permute import find_permutations
from jaxsparse.permute import permute
from jaxsparse.products import matmul
from jaxsparse.products import training_matmul
from jaxsparse.progressive import progressive
from jaxsparse.recipe_files import from_recipe
from jaxsparse.recipe_files import to_recipe
from jaxsparse.regularizers import add_group_lasso
from jaxsparse.regularizers import prox_group_lasso
from jaxsparse.regularizers import prune_vanished
from jaxsparse.rules import lock
from jaxsparse.rules import prune
from jaxsparse.rules import RuleState
from jaxsparse.schedules import cosine
from jaxsparse.schedules import cube
from jaxsparse.schedules import cubic
from jaxsparse.schedules import either
from jaxsparse.schedules import every
from jaxsparse.schedules import exponential
from jaxsparse.schedules import fade_cosine
from jaxsparse.schedules import fade_exponential
from jaxsparse.schedules import fade_linear
from jaxsparse.schedules import linear
from jaxsparse.schedules import one_shot
from jaxsparse.schedules import staircase
from jaxsparse.scores import adaptive_threshold
from jaxsparse.scores import gradient
from jaxsparse.scores import magnitude
from jaxsparse.scores import magnitude_and_gradient
from jaxsparse.scores import momentum
from jaxsparse.scores import random
from jaxsparse.scores import saliency
from jaxsparse.scores import signed_magnitude
from jaxsparse.scores import snip_momentum
from jaxsparse.selection import Kept
from jaxsparse.selection import select
from jaxsparse.sensitivity import heads
from jaxsparse.sensitivity import keep_units
from jaxsparse.sensitivity import neurons
from jaxsparse.sensitivity import prune_units
from jaxsparse.sensitivity import sensitivity
from jaxsparse.sensitivity import unit_saliency
from jaxsparse.slim import alive
from jaxsparse.slim import slim
from jaxsparse.staging import stages
from jaxsparse.ties import check_ties
from jaxsparse.ties import infer_ties
from jaxsparse.topkast import add_exploration_decay
from jaxsparse.topkast import forward_backward
from jaxsparse.topkast import top_kast
from jaxsparse.transform import get_masks
from jaxsparse.transform import sparse_params
from jaxsparse.transform import SparseState
from jaxsparse.transform import sparsify
from jaxsparse.units import Elsewhere
from jaxsparse.units import Member
from jaxsparse.units import Tie
from jaxsparse.units import Ties
