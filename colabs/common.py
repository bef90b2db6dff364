"""What the notebooks of this folder share: digits, a network, its training.

`quickstart.ipynb` explains the train step. Nothing here belongs to the library.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets
from sklearn import model_selection

import jaxsparse

BATCH = 128

# For `plt.rcParams.update`. Masks are shown black where a weight is kept.
PLOT_STYLE = {
    'figure.constrained_layout.use': True,
    'image.cmap': 'Greys',
    'image.interpolation': 'nearest',
    'legend.frameon': False,
    'lines.linewidth': 1.2,
}


def load_digits() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns the 1,797 handwritten digits of scikit-learn, always split alike.

  Returns:
    Training images `[1297, 64]`, test images `[500, 64]`, both between -0.5 and
    0.5, training labels and test labels: `x_train, x_test, y_train, y_test`.
  """
  digits = datasets.load_digits()
  images = digits.data.astype(np.float32) / 16 - 0.5
  return tuple(map(jnp.asarray, model_selection.train_test_split(
      images, digits.target, test_size=500, stratify=digits.target,
      random_state=0)))


class MLP(nnx.Module):
  """Hidden layers with relu for the pixels of a digit, then a linear head."""

  def __init__(self, *hidden: int, rngs: nnx.Rngs):
    self.hidden = nnx.List([
        nnx.Linear(inputs, units, rngs=rngs)
        for inputs, units in zip((64, *hidden), hidden)])
    self.head = nnx.Linear(hidden[-1], 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    return self.head(x)


def functional(model: nnx.Module) -> tuple[Callable[..., jax.Array], Any]:
  """Splits a model into the function `apply(params, x)` and its params."""
  graphdef, params = nnx.split(model, nnx.Param)

  def apply(params, x):
    return nnx.merge(graphdef, params, copy=True)(x)
  return apply, params


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the mean cross-entropy in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> float:
  """Returns the fraction of examples whose largest logit is their label's."""
  return float((logits.argmax(-1) == labels).mean())


def train_step(tx: optax.GradientTransformation,
               loss_fn: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Returns the train step that `quickstart.ipynb` explains.

  Args:
    tx: an optimizer made by `jaxsparse.sparsify`.
    loss_fn: a function of the params and a batch.

  Returns:
    A function from params, optimizer state and a batch to the new params, the
    new optimizer state and the loss of the batch; compile it with `jax.jit`.
  """
  def step(params, opt_state, *batch):
    sparse = jaxsparse.sparse_params(params, opt_state)
    loss, grads = jax.value_and_grad(loss_fn)(sparse, *batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss
  return step


def train(tx: optax.GradientTransformation, params: Any, *,
          loss_fn: Callable[..., jax.Array], data: Sequence[jax.Array],
          steps: int, seed: int = 0,
          record: Callable[..., Any] = lambda loss, params, opt_state: loss
          ) -> tuple[Any, Any, Any]:
  """Trains on random batches of 128 examples, all steps in one `lax.scan`.

  Args:
    tx: an optimizer made by `jaxsparse.sparsify`.
    params: the params to begin with.
    loss_fn: `loss_fn(params, x, y)`.
    data: all examples, `x` and `y`.
    steps: the number of steps.
    seed: chooses the batches.
    record: `record(loss, params, opt_state)` is kept of every step.

  Returns:
    The params, the optimizer state, and the records stacked along a new first
    axis.
  """
  step = train_step(tx, loss_fn)
  opt_state = tx.init(params)
  # A hard flow holds pruned weights at zero: begin with them there.
  if jaxsparse.sparse_params(params, opt_state) is params:
    params = jaxsparse.apply_masks(params, jaxsparse.get_masks(opt_state))

  def one_step(carry, key):
    rows = jax.random.choice(key, len(data[0]), (BATCH,))
    params, opt_state, loss = step(*carry, *(x[rows] for x in data))
    return (params, opt_state), record(loss, params, opt_state)

  keys = jax.random.split(jax.random.key(seed), steps)
  (params, opt_state), records = lax.scan(one_step, (params, opt_state), keys)
  return params, opt_state, records


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
  """Returns the mean of every `width` neighbours, `width - 1` fewer values.

  >>> print(running_mean([1., 3., 5.], 2))
  [2. 4.]
  """
  return np.convolve(values, np.ones(width) / width, mode='valid')


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
  """Prints columns under a head: the first one is text, the others numbers.

  >>> print_table(['method', 'accuracy'], [['dense', '98%'], ['2:4', '9%']])
  method  accuracy
  dense        98%
  2:4           9%
  """
  lines = [head, *rows]
  widths = [max(map(len, column)) for column in zip(*lines)]
  for name, *numbers in lines:
    print(name.ljust(widths[0]), *(
        number.rjust(width) for number, width in zip(numbers, widths[1:])),
          sep='  ')
