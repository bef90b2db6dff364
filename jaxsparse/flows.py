"""Flows: what a pruned weight still gives forward and still gets backward.

With mask `m`, weight `w` and the gradient `g` at the sparse point,

  forward   w~ = w * (m + a * (1 - m))
  backward  g <- g * (m + b * (1 - m)) + c * (1 - m) * w

and for a hard flow updates are set so that pruned weights land on zero.

| flow | a | b | c | lands on zero |
|---|---|---|---|---|
| `hard` | 0 | 0 | 0 | yes |
| `ste` | 0 | 1 | 0 | |
| `sr_ste` | 0 | 1 | 2e-4 | |
| `mdgf` | d(t) | 1, or d(t) | 0 | |

The transforms a flow is made of are plain optax: they take `masks` as an extra
argument and stand in any `optax.chain`.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import trees

Transform = optax.GradientTransformationExtraArgs


class Flow(NamedTuple):
  """How pruned weights take part in training.

  Attributes:
    gain: `a` as a function of the step, or `None` if pruned weights are held at
      zero, where no gain matters and the forward pass is free.
    before: changes gradients before the inner optimizer (`b` and `c`).
    after: changes updates after it.
    around: wraps the inner optimizer.
  """
  gain: Callable[[jax.Array], jax.Array] | None
  before: Transform
  after: Transform
  around: Callable[[optax.GradientTransformation],
                   optax.GradientTransformation] = lambda inner: inner


class CountState(NamedTuple):
  """The number of updates made."""
  count: jax.Array


def value_at(value: float | Callable[[jax.Array], Any], count: jax.Array
             ) -> jax.Array:
  """A number, or a schedule at a step, as float32."""
  return jnp.asarray(value(count) if callable(value) else value, jnp.float32)


def gain_at(gain: float | Callable[[jax.Array], Any], count: jax.Array
            ) -> jax.Array:
  """A gain at a step, clipped to [0, 1].

  Jitted schedules end at -2e-8 as easily as at 0.
  """
  return jnp.clip(value_at(gain, count), 0., 1.)


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
          f'{name} needs params and masks. Write tx.update(grads, state, '
          'params, masks=masks), e.g. with jaxsparse.get_masks(opt_state).')
    count = state.count if of_step else None
    updates = trees.map_masked(
        lambda w, m, u: f(count, m, u, w), params, masks, updates,
        dense=lambda w, u: u)
    return updates, CountState(count + 1) if of_step else state

  return Transform(init, update)


def gate_gradients(gain: float | Callable[[jax.Array], Any] = 0.) -> Transform:
  """Multiplies the gradient of pruned weights by a gain: `g*(m + b*(1-m))`.

  Args:
    gain: `b`, a number or a schedule; clipped to [0, 1].

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
    if not callable(gain) and gain == 0:
      return jnp.where(m, g, jnp.zeros_like(g))  # A NaN stops here.
    return jnp.where(m, g, g * gain_at(gain, count).astype(g.dtype))
  return _masked('gate_gradients', gate, of_step=callable(gain))


def add_pruned_decay(decay: float | Callable[[jax.Array], Any] = 2e-4
                     ) -> Transform:
  """Adds weight decay on pruned weights only: `g + c * (1 - m) * w`.

  Args:
    decay: `c`, a number or a schedule.

  Returns:
    A transform whose `update` takes `masks`.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021, equation 9

  >>> import jax.numpy as jnp
  >>> tx, w = add_pruned_decay(0.5), jnp.ones(2)
  >>> masks = jnp.array([True, False])
  >>> print(tx.update(jnp.zeros(2), tx.init(w), w, masks=masks)[0])
  [0.  0.5]
  """
  def add(count, m, g, w):
    c = value_at(decay, count).astype(g.dtype)
    return jnp.where(m, g, g + c * w.astype(g.dtype))
  return _masked('add_pruned_decay', add, of_step=callable(decay))


def project_updates() -> Transform:
  """Sets updates so that `params + updates` is exactly zero where pruned.

  Updates of a narrower dtype than their weight are widened to the weight's,
  because `-w` must be exact.

  Returns:
    A transform whose `update` takes `masks`; the last of a chain.

  >>> import jax.numpy as jnp
  >>> tx, w = project_updates(), jnp.array([3., 4.])
  >>> masks = jnp.array([True, False])
  >>> print(w + tx.update(jnp.ones(2), tx.init(w), w, masks=masks)[0])
  [4. 0.]
  """
  def project(count, m, u, w):
    del count
    # -w must be exact: in the weight's dtype, or a wider one of the update.
    dtype = u.dtype if u.dtype.itemsize > w.dtype.itemsize else w.dtype
    return jnp.where(m, u.astype(dtype), -w.astype(dtype))
  return _masked('project_updates', project, of_step=False)


class HeldState(NamedTuple):
  """The number of updates seen, and the state of the optimizer."""
  count: jax.Array
  inner: Any


def hold_steps(inner: optax.GradientTransformation,
               when: Callable[[jax.Array], Any]) -> Transform:
  """Makes an optimizer stand still at some steps: no update, no new state.

  `optax.conditionally_mask` does so with a branch. Here both are computed and
  one is taken, which fuses with the optimizer's arithmetic.

  Args:
    inner: any optax optimizer.
    when: at which steps it stands still.

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


def apply_masks(params: Any, masks: Any, gain: jax.typing.ArrayLike = 0.
                ) -> Any:
  """The weights that the forward pass sees, `w * (m + a * (1 - m))`.

  Args:
    params: a tree of weights.
    masks: the same tree with a bool array, or `None` for dense, at each leaf.
    gain: `a`, what pruned weights still give; 0 makes them exactly zero.

  Returns:
    A tree like `params`, of the same dtypes.

  >>> import jax.numpy as jnp
  >>> w = {'kernel': jnp.array([3., 4.]), 'bias': jnp.ones(1)}
  >>> masks = {'kernel': jnp.array([True, False]), 'bias': None}
  >>> print(apply_masks(w, masks)['kernel'])
  [3. 0.]
  """
  def apply(w, m):
    if isinstance(gain, (int, float)) and gain == 0:
      return jnp.where(m, w, jnp.zeros_like(w))
    a = jnp.asarray(gain, w.dtype)  # At 0 a NaN stops here.
    return jnp.where(m, w, jnp.where(a == 0, jnp.zeros_like(w), w * a))
  return trees.map_masked(
      apply, params, trees.nested_like(params, masks), dense=lambda w: w)


def hard() -> Flow:
  """Pruned weights are zero and get nothing: the inactive are inactive.

  Gradients are masked before the optimizer and updates after it, so weight
  decay and momentum cannot move a pruned weight. `sparse_params` costs nothing.
  Moments of weights that a rule grows back start at zero.

  Returns:
    A flow.
  """
  return Flow(None, gate_gradients(), project_updates())


def ste() -> Flow:
  """Straight-through estimator: a masked forward pass, a dense update.

  Returns:
    A flow.

  References:
    Bengio et al., `Estimating or Propagating Gradients Through Stochastic
    Neurons <https://arxiv.org/abs/1308.3432>`_, 2013
  """
  return Flow(lambda step: 0., optax.with_extra_args_support(optax.identity()),
              optax.with_extra_args_support(optax.identity()))


def sr_ste(decay: float | Callable[[jax.Array], Any] = 2e-4, *,
           decoupled: bool = False) -> Flow:
  """Sparse-refined straight-through estimator: `ste` plus decay when pruned.

  The term `c * (1 - m) * w` is added to the gradient, so it passes through the
  optimizer as weight decay in SGD does; the paper has it there too. Adam then
  scales it as it scales gradients: where these are small, the decay is not.

  Args:
    decay: `c`, a number or a schedule.
    decoupled: takes `c * (1 - m) * w` off after the optimizer instead, as AdamW
      does with weight decay. The learning rate is then yours to multiply:
      `sr_ste(lambda step: 2e-4 * learning_rate(step), decoupled=True)`.

  Returns:
    A flow.

  References:
    Zhou et al., `Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch <https://arxiv.org/abs/2102.04010>`_, 2021
  """
  if not decoupled:
    return ste()._replace(before=add_pruned_decay(decay))
  negative = (lambda step: -decay(step)) if callable(decay) else -decay
  return ste()._replace(after=add_pruned_decay(negative))


def mdgf(gain: Callable[[jax.Array], Any], straight_through: bool = True
         ) -> Flow:
  """Mask-decay gradient flow: pruned weights fade out, `w~ = w*(m + d*(1-m))`.

  Args:
    gain: `d`, a schedule from 1 to 0 by step, clipped to [0, 1]. The paper
      advises to reach 0 at about 70% of training.
    straight_through: pruned weights get the full gradient (the paper's method
      and its released code); `False` gates it by `d` too, which is the gradient
      with respect to `w` of the forward pass.

  Returns:
    A flow.

  References:
    Bambhaniya et al., `Progressive Gradient Flow for Robust N:M Sparsity
    Training in Transformers <https://arxiv.org/abs/2402.04744>`_, 2024
  """
  flow = ste()._replace(gain=gain)
  return flow if straight_through else flow._replace(
      before=gate_gradients(gain))
