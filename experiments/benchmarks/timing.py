"""Medians of interleaved runs, memory as the compiler reports it, and tables.

`forms` times a network whose weights are stored in several forms.

On a noisy machine, ratios between functions that ran in turns in one process
are reliable, while milliseconds are not.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import functools
import math
import pathlib
import shlex
import statistics
import sys
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reporting import benchmarked

_TOLERANCE = 1e-5  # Relative; forms add up in another order, in float32.


class Form(NamedTuple):
  """One form of a network.

  Attributes:
    apply: weights and inputs to outputs.
    weights: the weights of this form, which `apply` reads.
    same: another form with the same outputs; `None` is not compared.
  """
  apply: Callable[[Any, Any], jax.Array]
  weights: Any
  same: 'Form | None' = None

  @property
  def nbytes(self) -> int:
    """The bytes of the weights as they are stored, indices included."""
    return sum(x.nbytes for x in jax.tree.leaves(self.weights))


def forms(made: dict[str, Form], inputs: Callable[[int], Any],
          batches: Sequence[int], repeats: int) -> dict[str, list[float]]:
  """Median milliseconds of a forward pass of each form, for each batch.

  All forms run in turns. Before, outputs are compared with those that they
  should have.

  Args:
    made: the forms by name.
    inputs: makes a batch of a size.
    batches: the sizes.
    repeats: the runs of each form.

  Raises:
    ValueError: if a form computes something else than it should.
  """
  times = {name: [] for name in made}
  for batch in batches:
    x = jax.tree.map(jnp.asarray, inputs(batch))
    functions = {name: _compiled(form, x) for name, form in made.items()}
    for name, form in made.items():
      if form.same:
        check(name, functions[name](), jax.jit(form.same.apply)(
            form.same.weights, x))
    for name, ms in interleaved(functions, repeats).items():
      times[name].append(ms)
  return times


def _compiled(form, x):
  """A call without arguments; it passes leaves, for trees take time to walk."""
  leaves, tree = jax.tree.flatten(form.weights)
  _, f = compiled(
      lambda leaves, x: form.apply(tree.unflatten(leaves), x), leaves, x)
  return functools.partial(f, leaves, x)


def check(name: str, found: Any, expected: Any) -> None:
  """Compares what is to be timed with what it should compute.

  Args:
    name: of what is timed.
    found: an array that it computes.
    expected: the array that it should compute.

  Raises:
    ValueError: if shapes differ, or the relative error is not small.
  """
  found, expected = np.asarray(found), np.asarray(expected)
  error = math.inf
  if found.shape == expected.shape:
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  if not error < _TOLERANCE:
    raise ValueError(f'{name} is wrong: a relative error of {error}.')


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int = 11
                ) -> dict[str, float]:
  """Median milliseconds of each function, run in turns after a warm-up.

  Every turn begins with another function, because the first of a turn would
  find the caches as the last one left them, every time.
  """
  for f in functions.values():
    jax.block_until_ready(f())
  times = {name: [] for name in functions}
  names = [*functions]
  for i in range(repeats):
    first = i % len(names)
    for name in names[first:] + names[:first]:
      start = time.perf_counter()
      jax.block_until_ready(functions[name]())
      times[name].append(1e3 * (time.perf_counter() - start))
  return {name: statistics.median(ts) for name, ts in times.items()}


def compiled(f: Callable[..., Any], *args: Any, **options: Any
             ) -> tuple[float, jax.stages.Compiled]:
  """Seconds to trace and compile `f`, and the compiled function.

  Args:
    f: the function to compile. It is not run.
    *args: the arguments of `f`, or their shapes.
    **options: options of `jax.jit`.
  """
  start = time.perf_counter()
  made = jax.jit(f, **options).lower(*args).compile()
  return time.perf_counter() - start, made


def peak_megabytes(compiled: jax.stages.Compiled) -> float:
  """Arguments, results and temporaries of a compiled function, in MB (1e6)."""
  m = compiled.memory_analysis()
  return 1e-6 * (
      m.argument_size_in_bytes + m.output_size_in_bytes
      + m.temp_size_in_bytes - m.alias_size_in_bytes)


def print_table(head: list[str], rows: list[list[Any]]) -> None:
  """Prints a Markdown table with aligned columns."""
  print(benchmarked.table(head, rows), flush=True)


def report(about: str, head: list[str], rows: Iterable[list[Any]], *,
           data: str | None):
  """Prints a table, and writes it as data for `experiments.render`.

  Args:
    about: what is said above it: machine, versions, sizes.
    head: the names of the columns.
    rows: a value for each column.
    data: the file to write; with `None` the table is only printed.
  """
  print(f'{about}\n', flush=True)
  rows = [*rows]
  print_table(head, rows)
  if data:
    module = sys.modules['__main__'].__spec__
    command = ['python', '-m', module.name if module else '?', *sys.argv[1:]]
    benchmarked.write(pathlib.Path(data), head, rows, about=about,
                      command=shlex.join(command))


def describe() -> str:
  """One line with the device and the versions."""
  device = jax.devices()[0]
  return (f'jax {jax.__version__} on {jax.device_count()} x '
          f'{device.device_kind} ({device.platform})')
