"""The parts of flows: plain optax transforms that take `masks`.

Each transform takes `masks` as an extra argument of `update`, and works in any
`optax.chain`.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from jaxsparse._utils import arguments
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree

Transform = optax.GradientTransformationExtraArgs


class CountState(NamedTuple):
  """A state that holds the number of updates made."""
  count: jax.Array


@arguments.checked()
def value_at(value: float | Callable[[jax.Array], ArrayLike], count: Any
             ) -> jax.Array:
  """The value of a number, or of a schedule at a step, as float32."""
  return jnp.asarray(value(count) if callable(value) else value, jnp.float32)


@arguments.checked()
def gain_at(gain: float | Callable[[jax.Array], ArrayLike], count: Any
            ) -> jax.Array:
  """The value of a gain at a step, clipped to [0, 1]; 0 if below `2**-22`.

  Rounding can make a jitted schedule end at 3e-8 or -2e-8 instead of 0. Any
  gain above 0 would leave no pruned weight zero.
  """
  value = jnp.minimum(value_at(gain, count), 1.)
  return jnp.where(value < 2**-22, 0., value)


def _masked(name: str, f: Callable[..., Any], *, of_step: bool) -> Transform:
  """A transform from `f(count, mask, update, param)` on every masked leaf."""
  def init(params):
    del params
    return (CountState(jnp.zeros((), jnp.int32)) if of_step
            else optax.EmptyState())

  def update(updates, state, params=None, *, masks=None, **extra_args):
    del extra_args
    if masks is None or params is None:
      raise ValueError(
          f'{name} needs params and masks in update. Write tx.update(grads, '
          'state, params, masks=masks), e.g. with masks = '
          'jaxsparse.get_masks(opt_state).')
    count = state.count if of_step else None
    updates = trees.map_masked(
        lambda w, m, u: f(count, m, u, w), params, masks, updates,
        dense=lambda w, u: u)
    if of_step:
      state = CountState(state.count + 1)
    return updates, state

  return Transform(init, update)


@arguments.checked()
def gate_gradients(gain: float | Callable[[jax.Array], ArrayLike] = 0.
                   ) -> Transform:
  """Multiplies the gradient of pruned weights by a gain: `g*(m + b*(1-m))`.

  Args:
    gain: `b`, a number or a schedule; values are clipped to [0, 1].

  Returns:
    A transform whose `update` takes `masks`.

  >>> import jax.numpy as jnp
  >>> tx, w = gate_gradients(), jnp.ones(2)
  >>> masks = jnp.array([True, False])
  >>> print(tx.update(w, tx.init(w), w, masks=masks)[0])
  [1. 0.]
  """
  def gate(count, m, g, w):
    del w
    if isinstance(gain, (int, float)) and gain == 0:
      return jnp.where(m, g, jnp.zeros_like(g))  # A NaN stops here.
    return jnp.where(m, g, g * gain_at(gain, count).astype(g.dtype))
  return _masked('gate_gradients', gate, of_step=callable(gain))


@arguments.checked()
def add_pruned_decay(decay: float | Callable[[jax.Array], ArrayLike] = 2e-4,
                     p: int = 2) -> Transform:
  """Adds weight decay for pruned weights only: `g + c * (1 - m) * w`.

  With `p=1`, `sign(w)` stands for `w`: the same pull on weights of any size.

  Args:
    decay: `c`, a number or a schedule.
    p: the norm, 1 or 2.

  Returns:
    A transform whose `update` takes `masks`.

  Raises:
    ValueError: if p is another number.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021, equation 9

  >>> import jax.numpy as jnp
  >>> tx, w = add_pruned_decay(0.5), jnp.ones(2)
  >>> masks = jnp.array([True, False])
  >>> print(tx.update(jnp.zeros(2), tx.init(w), w, masks=masks)[0])
  [0.  0.5]
  """
  if p not in (1, 2):
    raise ValueError(f'The decay of pruned weights has p=1 or p=2, got p={p}. '
                     'Write p=2 for c * w, or p=1 for c * sign(w).')

  def add(count, m, g, w):
    c = value_at(decay, count).astype(g.dtype)
    pull = jnp.sign(w) if p == 1 else w
    return jnp.where(m, g, g + c * pull.astype(g.dtype))
  return _masked('add_pruned_decay', add, of_step=callable(decay))


def project_updates() -> Transform:
  """Sets updates so that `params + updates` is exactly zero where pruned.

  Updates of a narrower dtype than their weight are widened to the weight's,
  because `-w` must be exact.

  Returns:
    A transform whose `update` takes `masks`. Put it last in a chain.

  >>> import jax.numpy as jnp
  >>> tx, w = project_updates(), jnp.array([3., 4.])
  >>> masks = jnp.array([True, False])
  >>> print(w + tx.update(jnp.ones(2), tx.init(w), w, masks=masks)[0])
  [4. 0.]
  """
  def project(count, m, u, w):
    del count
    # -w must be exact: in the weight's dtype, or a wider one of the update.
    u, w = jnp.asarray(u), jnp.asarray(w)
    dtype = u.dtype if u.dtype.itemsize > w.dtype.itemsize else w.dtype
    return jnp.where(m, u.astype(dtype), -w.astype(dtype))
  return _masked('project_updates', project, of_step=False)


class HeldState(NamedTuple):
  """The number of updates made, and the state of the wrapped optimizer."""
  count: jax.Array
  inner: ArrayTree


@arguments.checked()
def hold_steps(inner: optax.GradientTransformation,
               when: Callable[[jax.Array], bool | jax.Array]
               ) -> Transform:
  """Pauses an optimizer at some steps: zero updates, unchanged state.

  `optax.conditionally_mask` does the same with a branch. `hold_steps` computes
  both results and selects one, which fuses with the optimizer's arithmetic.

  Args:
    inner: any optax optimizer.
    when: a function from step to bool, true at the steps that are paused.

  Returns:
    A transform.

  >>> import jax.numpy as jnp
  >>> tx, w = hold_steps(optax.sgd(1.), lambda step: step == 2), jnp.zeros(1)
  >>> state = tx.init(w)
  >>> for _ in range(3):
  ...   updates, state = tx.update(jnp.ones(1), state, w)
  ...   print(updates)
  [-1.]
  [0.]
  [-1.]
  """
  inner = optax.with_extra_args_support(inner)

  def init(params):
    return HeldState(jnp.zeros((), jnp.int32), inner.init(params))

  def update(updates, state, params=None, **extra_args):
    step = state.count + 1
    held = jnp.asarray(when(step))
    updates, new = inner.update(updates, state.inner, params, **extra_args)
    updates = jax.tree.map(
        lambda u: jnp.where(held, jnp.zeros_like(u), u), updates)
    new = jax.tree.map(
        lambda a, b: jnp.where(held, a, b), state.inner, new)
    return updates, HeldState(step, new)

  return Transform(init, update)


@arguments.checked(decay=arguments.number(0, write='1e-4'))
def add_exploration_decay(decay: float = 1e-4, p: int = 2) -> Transform:
  """Adds the exploration penalty of Top-KAST to gradients.

  The gradient becomes `g + c * w` on A and `g + c * w / D` on B without A, and
  stays `g` elsewhere; D is the density of A. Weights that are trained but not
  used shrink faster, so only those with large gradients enter A. With `p=1`,
  `sign(w)` replaces `w`.

  Args:
    decay: `c`, the strength of the penalty.
    p: the norm of the penalty, 1 or 2.

  Returns:
    A transform whose `update` takes `masks` (A) and `backward` (B).

  Raises:
    ValueError: if `p` is neither 1 nor 2, or from `update` if a set is missing.

  >>> tx, w = add_exploration_decay(0.5), jnp.array([4., 2., 1., 1.])
  >>> sets = dict(masks=w > 2, backward=w > 1)
  >>> print(tx.update(jnp.zeros(4), tx.init(w), w, **sets)[0])
  [2. 4. 0. 0.]
  """
  if p not in (1, 2):
    raise ValueError(
        'The exploration penalty needs the norm p=1 or p=2, got '
        f'p={p}. Write e.g. p=2.')

  def update(updates, state, params=None, *, masks=None, backward=None,
             **extra_args):
    del extra_args
    if params is None or masks is None or backward is None:
      raise ValueError(
          'add_exploration_decay needs params, masks and backward in update. '
          'Write tx.update(grads, state, params, masks=a, backward=b).')

    def add(w, used, trained, g):
      pull = decay * (jnp.sign(w) if p == 1 else w).astype(g.dtype)
      least = 1. / max(w.size, 1)
      density = jnp.maximum(used.mean(dtype=jnp.float32), least)
      out = g + pull / density.astype(g.dtype)
      return jnp.where(used, g + pull, jnp.where(trained, out, g))
    return trees.map_masked(
        add, params, masks, backward, updates,
        dense=lambda w, trained, g: g), state

  return Transform(lambda params: optax.EmptyState(), update)
