"""The contribution of each of stacked units, such as experts, to the output.

Experts have separate kernels, stacked along one axis. Their outputs go through
linear operations, such as products with a router's weights, sums and gathers,
until no axis indexes experts any more. `find` finds that part of a function.
Evaluated with the outputs of one expert alone, this part gives the expert's
contribution to the layer's output. Its derivative by these outputs contains the
router's weight.
"""

from typing import Any, Callable, Mapping, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse._utils.typing import ArrayTree
from jaxsparse.graph import _lines
from jaxsparse.graph import _stacks
from jaxsparse.graph import segments
from jaxsparse.graph._stacks import Layer
from jaxsparse.graph._stacks import Lost
from jaxsparse.graph._stacks import Stack


class Given(NamedTuple):
  """What one unit gives to each token.

  Attributes:
    added: what it adds to the layer's output, of the shape of that output.
    weights: the derivative of that by what the unit gives, summed over the
      unit's features.
    features: axes of both that are features, not tokens.
  """
  added: jax.Array
  weights: jax.Array
  features: tuple[int, ...]


class Layers:
  """The layers of a function that `find` found.

  Attributes:
    layers: in turn.
  """

  def __init__(self, traced: _lines.Traced, layers: list[Layer]):
    self.layers = layers
    self._traced = traced
    self._gives = [*dict.fromkeys(
        i for layer in layers for i in (layer.seed, *layer.reads))]
    self._program, self._reads = segments.program(traced, self._gives)

  def run(self, params: ArrayTree, *inputs: Any,
          look: Callable[[Given], Any]) -> list[Any]:
    """For each layer what `look` returns, stacked over units."""
    values = dict(zip(self._gives, self._program.run(
        self._traced.values(self._reads, jax.tree.leaves(params),
                            self._traced.start(*inputs)))))

    def units(layer):
      seed, size = values[layer.seed], values[layer.seed].shape[layer.axis]
      others = [values[i] for i in layer.reads]

      def one(j):
        shape = [1] * seed.ndim
        shape[layer.axis] = size
        mine = (jnp.arange(size) == j).reshape(shape)
        # Laid out as the seed is, by broadcasting: axes may be Explicit.
        added, weights = jax.jvp(
            lambda seed: layer.program.run([seed, *others])[0],
            [jnp.where(mine, seed, 0)],
            [jnp.where(mine, jnp.ones_like(seed), 0)])
        return look(Given(added, weights, layer.features))
      return lax.map(one, jnp.arange(size))
    return [*map(units, self.layers)]


def find(fn: Callable[..., Any], params: ArrayTree, *inputs: Any,
         stacks: Mapping[str, Stack]) -> Layers:
  """Finds where what stacked units give is summed.

  Args:
    fn: any function that JAX can trace.
    params: its first argument.
    *inputs: the others.
    stacks: by name parameters with units.

  Raises:
    Lost: if some are not followed.
  """
  kernels = {path for stack in stacks.values() for path in stack.axes}
  traced = _lines.traced(fn, params, *inputs, kernels=kernels, flat=True)
  line, layers = traced.line, []
  steps = line.data_steps()
  for name, stack in stacks.items():
    leaves = {found[1].path.index: found[1].path for step in steps
              if (found := _stacks.kernel_of(line, stack, step))}
    if not leaves:
      raise Lost(
          f'no product of {[*stack.axes][:3]} with data is seen that has the '
          f'{stack.size} units of {name!r} apart')
    layers += [_stacks.follow(traced, name, stack, leaf, steps)
               for leaf in leaves.values()]
  return Layers(traced, layers)
