"""Medians of interleaved runs, memory by the compiler's account, and tables.

Ratios between functions that ran in turns in one process hold on a noisy
machine where milliseconds do not.
"""

import statistics
import time
from typing import Any, Callable

import jax


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int = 11
                ) -> dict[str, float]:
  """Median milliseconds of each function, run in turns after a warm-up."""
  for f in functions.values():
    jax.block_until_ready(f())
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name, f in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(f())
      times[name].append(1e3 * (time.perf_counter() - start))
  return {name: statistics.median(ts) for name, ts in times.items()}


def compiled(f: Callable[..., Any], *args: Any, **options: Any
             ) -> tuple[float, jax.stages.Compiled]:
  """Seconds to trace and compile `f`, and what came of it.

  Args:
    f: what to compile; it is not run.
    *args: its arguments, or their shapes.
    **options: of `jax.jit`.
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
  text = [[f'{c:.2f}' if isinstance(c, float) else str(c) for c in row]
          for row in [head, *rows]]
  widths = [max(len(r[i]) for r in text) for i in range(len(head))]
  lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(r, widths)) + ' |'
           for r in text]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  print('\n'.join(lines), flush=True)


def describe() -> str:
  """One line that says what ran."""
  device = jax.devices()[0]
  return (f'jax {jax.__version__} on {jax.device_count()} x '
          f'{device.device_kind} ({device.platform})')
