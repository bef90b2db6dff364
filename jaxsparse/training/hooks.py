"""Hooks: sparse training in a training loop whose code you cannot change.

Usually a train step calls `sparse_params`. A loop in which this line cannot be
added can call hooks instead. The hooks place the sparse point (the parameters
under the masks) where the loop reads the weights, and restore the dense point
(the parameters that the optimizer holds) before the optimizer updates it. The
optimizer makes the masks, as in any other loop; the hooks prune nothing.
"""

from typing import Any, Callable

import jax

from jaxsparse import flows
from jaxsparse import transform
from jaxsparse._utils import trees
from jaxsparse._utils.typing import ArrayTree

# Compiled once for each set of shapes, whatever the loop.
_at_sparse_point = jax.jit(flows.apply_masks)
_sparse = jax.jit(lambda forward, *rows: forward.sparse(*rows))


class Hooks:
  """Swaps the dense and the sparse point of a model during a training step.

    tx = jaxsparse.sparsify(optax.adam(1e-3), rule, flow)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    hooks = jaxsparse.Hooks(model, optimizer)
    for epoch in range(epochs):
      hooks.on_epoch_begin(epoch)
      for batch in batches:
        hooks.on_step_begin(batch)           # the model is at the sparse point
        loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
        hooks.on_before_optimizer_step()     # the dense point again
        optimizer.update(model, grads)
        hooks.on_step_end()
      hooks.on_epoch_end()                   # the sparse point, for evaluation

  With a tree of params instead of a model, the loop reads and writes
  `hooks.params` and `hooks.opt_state`.

  After `on_epoch_end` the weights stay at the sparse point until the next epoch
  or step begins. A checkpoint to resume from must hold the dense point; save
  and load it within an epoch, between two steps. With a hard flow both points
  are equal, and a rule that prunes at step 0 has pruned the weights as soon as
  the hooks exist.

  Hooks write only the weights that have masks. Hooks do not read arrays, so no
  step waits for the device. Both points have the same shapes and dtypes, so the
  compiled functions of the loop serve both.

  Args:
    model: an `nnx.Module`, or any tree of params.
    optimizer: the `nnx.Optimizer` of the model, or the optimizer state of the
      params.

  Attributes:
    epoch: the argument of the last `on_epoch_begin`.
    batch: the argument of the last `on_step_begin`.

  Raises:
    ValueError: unless the optimizer state has exactly one `SparseState`, for
      these params; from any hook that is called out of order.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> from jaxsparse import patterns, rules
  >>> tx = transform.sparsify(
  ...     optax.sgd(1.), rules.prune({'w': patterns.nm(1, 2)}), flows.ste())
  >>> params = {'w': jnp.array([[1.], [2.]])}
  >>> hooks = Hooks(params, tx.init(params))
  >>> hooks.on_step_begin()
  >>> print(hooks.params['w'][:, 0])
  [0. 2.]
  >>> hooks.on_before_optimizer_step()
  >>> print(hooks.params['w'][:, 0])
  [1. 2.]
  """

  def __init__(self, model: Any, optimizer: Any):
    # The filter by which an `nnx.Optimizer` selects variables as params.
    self._wrt = getattr(optimizer, 'wrt', None)
    self._model, self._optimizer = model, optimizer
    self.epoch = self.batch = None
    params, masks = self.params, self.masks
    trees.same_structure(params, masks)
    rows = jax.tree.structure(params).flatten_up_to(masks)
    self._sparse = [i for i, mask in enumerate(rows)
                    if not trees.is_dense(mask)]
    self._dense = None  # The dense point, while the model is at the sparse one.
    self._moment = 'between steps'
    self._count = None
    if self._state.gain is None:  # The params are the sparse point themselves.
      self._exchange(self._with_gain(0.))

  @property
  def params(self) -> ArrayTree:
    """The params of the loop, at the dense or sparse point as they are now."""
    if self._wrt is None:
      return self._model
    from flax import nnx
    return nnx.state(self._model, self._wrt)

  @params.setter
  def params(self, params: ArrayTree) -> None:
    self._put(params)
    self._dense = None  # Params that a loop assigns are a dense point.

  def _put(self, params: ArrayTree) -> None:
    if self._wrt is None:
      self._model = params
    else:
      from flax import nnx
      nnx.update(self._model, params)

  @property
  def opt_state(self) -> ArrayTree:
    """The optimizer state."""
    return self._optimizer if self._wrt is None else self._optimizer.opt_state

  @opt_state.setter
  def opt_state(self, opt_state: ArrayTree) -> None:
    if self._wrt is not None:
      raise ValueError(
          'hooks.opt_state cannot be set, because the nnx.Optimizer holds the '
          'state. Write optimizer.update(model, grads), or '
          'nnx.update(optimizer, restored).')
    self._optimizer = opt_state

  @property
  def masks(self) -> ArrayTree:
    """Like the params: bool arrays, True where kept, or `None` where dense."""
    return trees.nested_like(self.params, transform.get_masks(self.opt_state))

  @property
  def _state(self) -> transform.SparseState:
    return transform.state_of(self.opt_state)

  def _exchange(self, new: Callable[[list[jax.Array]], list[jax.Array]]
                ) -> list[jax.Array]:
    """Replaces the weights that have masks, and returns their old values."""
    leaves, structure = jax.tree.flatten(self.params)
    old = [leaves[i] for i in self._sparse]
    for i, w in zip(self._sparse, new(old)):
      leaves[i] = w
    self._put(structure.unflatten(leaves))
    return old

  def _with_gain(self, gain: Any) -> Callable[[Any], list[jax.Array]]:
    masks = jax.tree.leaves(transform.get_masks(self.opt_state))
    return lambda weights: _at_sparse_point(weights, masks, gain)

  def _to_sparse(self) -> None:
    state = self._state
    gain = jax.tree.leaves(state.gain)
    if self._dense is None and gain:
      self._dense = self._exchange(
          self._with_gain(*gain) if state.forward is None else
          lambda weights: _sparse(
              state.forward, weights, jax.tree.leaves(state.masks), *gain))

  def _to_dense(self) -> None:
    if self._dense is not None:
      self._exchange(lambda _: self._dense)
      self._dense = None

  # The hooks that a loop calls.

  def _go(self, hook: str, now: tuple[str, ...], then: str) -> None:
    if self._moment not in now:
      raise ValueError(
          f'{hook} must be called {" or ".join(now)}, but this is '
          f'{self._moment}. Write the calls of a step in this order: '
          'on_step_begin(batch), loss and gradients, '
          'on_before_optimizer_step(), the optimizer, on_step_end().')
    self._moment = then

  def on_epoch_begin(self, epoch: Any = None) -> None:
    """Moves the weights to the dense point, which the optimizer updates.

    Args:
      epoch: any value, which the attribute `epoch` then holds.
    """
    self._go('on_epoch_begin', ('between steps',), 'between steps')
    self.epoch = epoch
    self._to_dense()

  def on_step_begin(self, batch: Any = None) -> None:
    """Moves the weights to the sparse point; take the gradient there.

    A step may begin again without an optimizer step in between, for example
    after a gradient that was not finite.

    Args:
      batch: any value, which the attribute `batch` then holds.
    """
    self._go('on_step_begin', ('between steps', 'before the optimizer'),
             'before the optimizer')
    self.batch = batch
    self._to_sparse()
    self._count, = jax.tree.leaves(self._state.rule.count)

  def on_before_optimizer_step(self) -> None:
    """Moves the weights to the dense point; call the optimizer after this."""
    self._go('on_before_optimizer_step', ('before the optimizer',),
             'after the optimizer')
    self._to_dense()
    self._count, = jax.tree.leaves(self._state.rule.count)

  def on_step_end(self, skipped: bool = False) -> None:
    """Ends a step, and checks that the optimizer has made its update.

    A micro-batch whose gradient is only accumulated also ends with this hook,
    without `on_before_optimizer_step`.

    Args:
      skipped: whether the loop skipped the optimizer on purpose after
        `on_before_optimizer_step`, as a loss scaler does.
    """
    accumulates = self._moment == 'before the optimizer'
    self._go('on_step_end', ('before the optimizer', 'after the optimizer'),
             'between steps')
    count, = jax.tree.leaves(self._state.rule.count)
    if accumulates and count is not self._count:
      self._moment = 'before the optimizer'
      raise ValueError(
          'The optimizer was called at the sparse point, but it updates the '
          'dense point. Write hooks.on_before_optimizer_step() before the '
          'optimizer.')
    if accumulates or skipped:
      self._to_dense()
      return
    if count is self._count:
      self._moment = 'after the optimizer'
      raise ValueError(
          'The optimizer state did not change between on_before_optimizer_step '
          'and on_step_end. Write optimizer.update(model, grads) there, or, '
          'for a tree of params, updates, hooks.opt_state = tx.update(grads, '
          'hooks.opt_state, hooks.params) and hooks.params = '
          'optax.apply_updates(hooks.params, updates). If the loop skipped the '
          'optimizer on purpose, write on_step_end(skipped=True).')

  def on_epoch_end(self) -> None:
    """Moves the weights to the sparse point, for evaluation or export."""
    self._go('on_epoch_end', ('between steps',), 'between steps')
    self._to_sparse()

  def fit(self, train_fn: Callable[['Hooks'], Any]) -> Any:
    """Runs a whole training loop.

    If `train_fn` raises, the weights are moved to the dense point, which
    belongs to the optimizer state, and the next step may begin.

    Args:
      train_fn: a function that is called with these hooks.

    Returns:
      The model, or the params, at the sparse point.
    """
    try:
      train_fn(self)
      self.on_epoch_end()
    except BaseException:
      self._to_dense()
      self._moment = 'between steps'
      raise
    return self._model
