"""Tables of paired differences, against numbers worked out by hand."""

import pytest

from experiments.reporting import paired
from experiments.reporting import tables
from tests._lib import sweeps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def test_differences_are_paired_by_seed():
  table = paired.differences(
      sweeps.runs(sweeps.MEASURED), ('ste', 'sr_ste', 'mdgf'), ('2:4', '1:8'),
      reference='sr_ste', seeds=3)
  # ste: -2, -3, -4, which is -3 +- 2.484; unpaired it would be 4.1.
  # mdgf: 3, 2 on the seeds both have, which is 2.5 +- 6.353.
  assert table.splitlines() == [
      '| method - sr_ste | 2:4              | 1:8            |',
      '|-----------------|------------------|----------------|',
      '| ste             | **-3.0 ± 2.5**   | **-2.0 ± 0.0** |',
      '| mdgf            | +2.5 ± 6.4 (n=2) | n/a            |']


def test_variants_stand_beside_their_methods():
  runs = sweeps.runs({
      ('ste', '2:4'): (90, 91, 92), ('ste_permuted', '2:4'): (92, 94, 96),
      ('ste', '1:8'): (80, 80, 80), ('set', '2:4'): (1, 2, 3),
      ('ste', '1:16'): (70, 72), ('ste_permuted', '1:16'): (72,)})
  table = paired.variants(
      runs, ('ste', 'set', 'ste_permuted'), ('2:4', '1:8', '1:16'),
      suffix='permuted', seeds=3, label=str.upper)
  assert [[cell.strip() for cell in line.strip('|').split('|')]
          for line in table.splitlines()[::2]] == [
              ['method', '2:4', '2:4 permuted', 'difference', '1:8',
               '1:8 permuted', 'difference', '1:16', '1:16 permuted',
               'difference'],
              ['STE', '91.0 ± 2.5', '94.0 ± 5.0', '**+3.0 ± 2.5**',
               '80.0 ± 0.0', 'n/a', 'n/a',
               '71.0 ± 12.7 (n=2)', '72.0 (n=1)', '+2.0 (n=1)']]
  with pytest.raises(ValueError, match='variant METHOD_long, there are ste'):
    paired.variants(runs, ('ste',), ('2:4',), suffix='long', seeds=3)


def test_changes_are_of_the_same_method_target_and_seed():
  runs = sweeps.runs({
      ('dense', None): (98, 98), ('ste', '2:4'): (92, 94, 96),
      ('ste', '1:8'): (80, 82), ('set', '2:4'): (1, 2), ('set', '1:8'): (5, 5)})
  before = sweeps.runs({
      ('dense', None): (97, 97), ('ste', '2:4'): (90, 91, 92),
      ('ste', '1:8'): (81, 80, 80), ('set', '1:8'): (7, 7)})
  # ste: 2, 3, 4, which is 3 +- 2.484; -1, 2 on the seeds both have.
  assert paired.changes(
      runs, before, ('dense', 'ste', 'set'), ('2:4', '1:8'), seeds=3,
      label=str.upper).splitlines() == [
          '| method | 2:4                  | 1:8                  |',
          '|--------|----------------------|----------------------|',
          '| DENSE  | **+1.0 ± 0.0** (n=2) | **+1.0 ± 0.0** (n=2) |',
          '| STE    | **+3.0 ± 2.5**       | +0.5 ± 19.1 (n=2)    |',
          '| SET    | n/a                  | **-2.0 ± 0.0** (n=2) |']


def test_changes_of_another_metric_are_an_error():
  runs = sweeps.runs({('ste', '2:4'): (92, 94)})
  other = [tables.Run('ste', '2:4', 0, [{'step': 1, 'bits_per_byte': 2.5}])]
  with pytest.raises(ValueError, match='by accuracy, the one before by bits_'):
    paired.changes(runs, other, ('ste',), ('2:4',), seeds=2)
