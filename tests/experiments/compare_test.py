"""The command that compares runs."""

import json

import pytest

from experiments import compare
from experiments.records import metrics


def test_comparison_pools_seeds_and_names_what_differs(tmp_path):
  runs = [('sr_ste', 0, .9), ('sr_ste', 1, .92), ('dense', 0, .95)]
  paths = []
  for method, seed, accuracy in runs:
    path = tmp_path / f'{method}_{seed}'
    path.mkdir()
    (path / 'config.json').write_text(json.dumps(
        {'method': method, 'model': 'mlp', 'steps': 3, 'seed': seed}))
    metrics.append(path / 'metrics.jsonl', {
        'step': 3, 'loss': 1., 'accuracy': accuracy,
        'sparsity': .5 if method == 'sr_ste' else 0.})
    paths.append(str(path))
  # Two values a distance d apart: t(0.975, 1 degree) = 12.706, times d / 2.
  assert compare.table(paths).splitlines() == [
      'runs  sparsity  accuracy       config',
      '2     50.0%     91.0% +- 12.7  sr_ste',
      '1     0.0%      95.0%          dense']
  (tmp_path / 'sr_ste_1' / 'dataset.json').write_text(
      '{"dataset": "digits", "fingerprint": "other"}')
  assert [line.split()[-2:] for line in compare.table(paths).splitlines()[1:]
         ] == [['sr_ste', 'data=None'], ['sr_ste', 'data=other'],
               ['dense', 'data=None']]
  (tmp_path / 'dense_0' / 'metrics.jsonl').unlink()
  with pytest.raises(ValueError, match='dense_0 must have ended'):
    compare.table(paths)


def test_runs_from_other_weights_or_recipes_do_not_share_a_row(tmp_path):
  def told(**changes):
    paths = []
    for seed in range(2):
      path = tmp_path / f'{len([*tmp_path.iterdir()])}'
      path.mkdir()
      (path / 'config.json').write_text(json.dumps({
          'method': 'recipe', 'steps': 3, 'seed': seed, 'init_from': 'runs/1',
          'recipe': 'mine.yaml'}))
      metrics.append(path / 'metrics.jsonl', {
          'step': 3, 'accuracy': .5, 'sparsity': .5})
      sources = {'fingerprint': 'abc', 'weights': 'one', 'recipe': 'a: 1'}
      sources.update(changes if seed else {})
      (path / 'recipe.yaml').write_text(sources.pop('recipe'))
      (path / 'dataset.json').write_text(json.dumps(sources))
      paths.append(path)
    return [line.split()[-1] for line in compare.table(paths).splitlines()[1:]]
  assert told() == ['recipe']
  assert told(weights='two') == ['weights=one', 'weights=two']
  one, two = told(recipe='a: 2')
  assert one != two and one.startswith('recipe.yaml=')


def test_a_seed_counts_once(tmp_path):
  def run(name, seed, accuracy):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text(json.dumps(
        {'method': 'dense', 'steps': 3, 'seed': seed}))
    metrics.append(tmp_path / name / 'metrics.jsonl', {
        'step': 3, 'accuracy': accuracy, 'sparsity': 0.})
    return tmp_path / name
  one, copy, other = run('a', 0, .5), run('b', 0, .5), run('c', 0, .6)
  for paths in ([one, one], [one, copy]):
    assert compare.table(paths).splitlines()[1].split() == [
        '1', '0.0%', '50.0%', 'dense']
  with pytest.raises(ValueError, match='a and .*c hold the same run, of seed '
                     '0, but .* give one of them'):
    compare.table([one, other])
  second = run('d', 1, .5)
  assert compare.table([one, copy, second]).splitlines()[1].startswith('2 ')


def test_comparison_shows_each_run_by_its_own_metric(tmp_path):
  for name, values in (('lm', {'bits_per_byte': 2.5}),
                       ('vit', {'accuracy': .5})):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text(json.dumps(
        {'method': 'dense', 'model': name, 'steps': 3, 'seed': 0}))
    metrics.append(tmp_path / name / 'metrics.jsonl',
                   {'step': 3, 'loss': 1., 'sparsity': 0., **values})
  assert compare.table([tmp_path / 'lm', tmp_path / 'vit']).splitlines() == [
      'runs  sparsity  accuracy, bits_per_byte  config',
      '1     0.0%      2.500 bits/byte          dense model=lm',
      '1     0.0%      50.0%                    dense model=vit']
