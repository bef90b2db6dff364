"""Medians of interleaved runs, memory as the compiler reports it, and tables.

On a noisy machine, ratios between functions that ran in turns in one process
are reliable, while milliseconds are not.
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
  text = [[f'{c:.2f}' if isinstance(c, float) else str(c) for c in row]
          for row in [head, *rows]]
  widths = [max(len(r[i]) for r in text) for i in range(len(head))]
  lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(r, widths)) + ' |'
           for r in text]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  print('\n'.join(lines), flush=True)


def describe() -> str:
  """One line with the device and the versions."""
  device = jax.devices()[0]
  return (f'jax {jax.__version__} on {jax.device_count()} x '
          f'{device.device_kind} ({device.platform})')
