"""Tables of paired differences, of methods and of sweeps.

Runs with the same seed share their first weights and their batches, so the
effect of these cancels. Every interval is Student's, at 95%, over seeds.
"""

from collections.abc import Sequence
import itertools

from experiments.reporting import tables

DIFFERENCES_NOTE = (
    'Mean over seeds of the method minus {reference} with the same seed ± half '
    'of its 95% interval (paired t); {better} is better. **Bold**: the '
    'interval excludes zero, which one in twenty does by chance.')


def differences(runs: Sequence[tables.Run], methods: Sequence[str],
                targets: Sequence[str], *, reference: str, seeds: int,
                label: tables.Label = str) -> str:
  """Returns the table of paired differences to one method.

  Args:
    runs: the measured runs of a sweep.
    methods: the rows; the reference has no row.
    targets: the columns.
    reference: the method whose metric is subtracted, seed by seed.
    seeds: see `tables.means`.
    label: tells how a method's name is printed.
  """
  _, metric = tables.judged(runs)
  others = [method for method in methods if method != reference]
  return tables.markdown([[f'method - {label(reference)}', *targets], *(
      [label(method), *(
          _paired(tables.scores(runs, method, target),
                  tables.scores(runs, reference, target), metric, seeds)
          for target in targets)] for method in others)])


def variants(runs: Sequence[tables.Run], methods: Sequence[str],
             targets: Sequence[str], *, suffix: str, seeds: int,
             label: tables.Label = str) -> str:
  """Returns the table of methods beside their variants, and what these gain.

  Args:
    runs: the measured runs of a sweep.
    methods: the methods and their variants.
    targets: the columns, three for each: the method, its variant, and the
      paired difference of the variant to the method.
    suffix: the variant of `wanda` is `wanda_` and this word.
    seeds: see `tables.means`.
    label: tells how a method's name is printed.

  Raises:
    ValueError: if no method has such a variant.
  """
  _, metric = tables.judged(runs)
  pairs = [(method, variant) for method in methods
           if (variant := f'{method}_{suffix}') in methods]
  if not pairs:
    raise ValueError(f'no method has a variant METHOD_{suffix}, there are '
                     f'{", ".join(methods)}')

  def mean(values):
    if not values:
      return tables.NOT_BUILT
    cell = tables.estimate([*values.values()])
    return tables.sized(tables.show(cell, metric.digits), cell.seeds, seeds)

  def cells(method, variant, target):
    ours, theirs = (tables.scores(runs, name, target)
                    for name in (method, variant))
    return mean(ours), mean(theirs), _paired(theirs, ours, metric, seeds)
  head = ['method']
  for target in targets:
    head += [target, f'{target} {suffix}', 'difference']
  return tables.markdown([head, *(
      [label(method), *itertools.chain.from_iterable(
          cells(method, variant, target) for target in targets)]
      for method, variant in pairs)])


def changes(runs: Sequence[tables.Run], before: Sequence[tables.Run],
            methods: Sequence[str], targets: Sequence[str], *, seeds: int,
            label: tables.Label = str) -> str:
  """Returns the table of paired differences to the same runs of before.

  Args:
    runs: the measured runs of a sweep.
    before: those of another one, say with fewer steps. Runs of the same method,
      target and seed are compared.
    methods: the rows.
    targets: the columns.
    seeds: see `tables.means`.
    label: tells how a method's name is printed.

  Raises:
    ValueError: if the two are judged by different metrics.
  """
  (key, metric), (other, _) = tables.judged(runs), tables.judged(before)
  if key != other:
    raise ValueError(f'one sweep is judged by {key}, the one before by {other}')
  return tables.markdown([['method', *targets], *(
      [label(method), *(
          _paired(tables.scores(runs, method, target),
                  tables.scores(before, method, target), metric, seeds)
          for target in targets)] for method in methods)])


def _paired(theirs, ours, metric, seeds):
  """The difference of scores with the same seeds, as text."""
  pairs = [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
  if not pairs:
    return tables.NOT_BUILT
  cell = tables.estimate(pairs)
  text = tables.show(cell, metric.digits, sign='+')
  return tables.sized(f'**{text}**' if abs(cell.mean) > cell.half else text,
                      cell.seeds, seeds)
