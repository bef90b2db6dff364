"""Names for types, with the names and the meanings that chex gives them.

Chex itself is not required: optax 0.2.6 depends on it, later versions do not.
"""

from typing import Any, TypeAlias

import jax
import numpy as np

# Any pytree of arrays, a tree of masks with `None` where dense among them. No
# type says that: JAX learns of new kinds of nodes while a program runs. Chex's
# union of iterables and mappings refuses modules, dataclasses and `None`, and
# of a result it does not know that `params['kernel']` works.
ArrayTree: TypeAlias = Any

# An array, or one number; `ArrayLike` of JAX has complex numbers, too.
Numeric: TypeAlias = jax.Array | np.ndarray | np.bool_ | np.number | float | int
