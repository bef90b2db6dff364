"""The text of a sweep's table.md."""

from experiments.reporting import document
from experiments.reporting import results
from experiments.reporting import tables
from tests._lib import sweeps


def _results(**settings):
  lines = [
      {'method': run.method, 'target': run.target, 'seed': run.seed,
       'config': {}, 'row': run.rows[-1], 'data': 'abc'}
      for run in sweeps.runs(sweeps.MEASURED)]
  config = sweeps.small(methods=('dense', 'ste', 'sr_ste', 'mdgf'),
                        seeds=(0, 1, 2))
  return results.Results(config, lines)._replace(**settings)


def test_data_that_changed_between_runs_is_told():
  found = _results()
  assert '\n- data abc\n' in document.table_md(found)
  found.lines[-1]['data'] = 'def'
  assert '- data abc, def (**the data changed' in document.table_md(found)


def test_weights_that_changed_between_runs_from_one_network_are_told():
  found = _results()
  assert '- weights' not in document.table_md(found)  # As before the record.
  for line in found.lines[1:]:
    line['weights'] = 'abc'
  found.lines[-1].update(config={'init_from': 'another'}, weights='def')
  assert '\n- weights abc, def\n' in document.table_md(found)
  found.lines[-2]['weights'] = 'fed'
  assert '- weights abc, def, fed (**the weights changed' in (
      document.table_md(found))


def test_a_recipe_that_changed_between_runs_of_a_method_is_told():
  found = _results()
  for line in found.lines:
    line['recipe.yaml'] = line['method']
  assert 'changed' not in document.table_md(found)
  found.lines[-1]['recipe.yaml'] = 'new'
  assert '(**the recipe.yaml changed' in document.table_md(found)


def test_sections_are_those_of_what_was_done():
  text = document.table_md(_results())
  assert [line for line in text.splitlines() if line.startswith('#')] == [
      '# Test accuracy (%) by method and target',
      '## Paired differences to sr_ste', '## How']
  assert text.endswith('- called from Python\n')
  tuned = tables.Tuned('decay', '1:8', [7], {
      'ste': [[.1, 90.], [.2, 80.]], 'sr_ste': [[.1, 70.], [.2, 80.]]},
                       {'ste': .1, 'sr_ste': .2})
  found = _results(tuned=tuned, commands=['one', 'two'], not_built={
      ('mdgf', '1:8'): 'no room'})
  for line, cost in zip(found.lines, [9., 9., 9.] + [3.] * 20):
    line['row']['train_flops'] = cost
  text = document.table_md(found)
  for part in ('\n## At equal FLOPs of training\n',
               'maybe better beyond it: ste, sr_ste\n',
               '\n## Not built\n\n- mdgf 1:8: no room\n',
               '\n- mlp on digits, 6 steps\n- seeds 0, 1, 2\n',
               '\n- `one`\n- `two`\n'):
    assert part in text
