"""Lists of methods, targets and seeds: how flags give them, mistakes."""

import ml_collections
import pytest

from experiments._utils import grids


def _config(**lists):
  return ml_collections.ConfigDict(
      {'methods': ('a', 'b'), 'seeds': (0, 1), **lists})


def test_lists_of_flags_are_lists_of_texts():
  config = _config(methods=('a,b', 'c'))
  grids.split(config, ('methods',))
  assert config.methods == ('a', 'b', 'c')


@pytest.mark.parametrize('lists, part', [
    ({'methods': ()}, 'must not be empty. .* --config.methods=a,b'),
    ({'methods': ('a', 'a')}, 'config.methods must have each entry once'),
    ({'seeds': ()}, '--config.seeds=0,1,2'),
    ({'seeds': (-1,)}, 'must be whole numbers, got -1'),
])
def test_mistakes_are_told(lists, part):
  with pytest.raises(ValueError, match=part):
    grids.check(_config(**lists), {'methods': 'a,b'})


@pytest.mark.parametrize('target', ['4:2', '0:4', '100%', '0.9', 'x', ''])
def test_what_is_no_target_is_told(target):
  with pytest.raises(ValueError, match='config.targets must .* \'90%\''):
    grids.check_targets(['2:4', target], 'targets')
