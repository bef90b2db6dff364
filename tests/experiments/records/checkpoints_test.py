"""Checkpoints: damage is found out, digests see every bit."""

import shutil

import jax
import jax.numpy as jnp
import pytest

from experiments.records import checkpoints
from experiments.training import runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def _damage_each_file(path):
  """Yields after each of several ways to damage each file, then mends it."""
  for file in [file for file in path.rglob('*') if file.is_file()]:
    content = file.read_bytes()
    for damaged in (content[:-1] + b'?', content[:len(content) // 2], None):
      if damaged == content:  # An empty file cannot be cut.
        continue
      file.unlink()
      if damaged is not None:
        file.write_bytes(damaged)
      yield file
      file.write_bytes(content)


def test_every_damage_to_a_checkpoint_is_found_out(finished, tmp_path):
  config, path, _ = finished
  copy = shutil.copytree(path / 'checkpoints', tmp_path / 'checkpoints')
  state = runs.create(config)[0].init(None)
  tried = 0
  for _ in _damage_each_file(copy / '6'):
    with pytest.raises(ValueError, match='checkpoints/6 is damaged'):
      checkpoints.restore(copy, state)
    tried += 1
  assert tried > 10
  assert checkpoints.restore(copy, state)[0] == 6  # All mended.


def test_checkpoint_of_another_model_names_the_leaf(finished):
  config, path, _ = finished
  config = config.copy_and_resolve_references()
  config.width = 16
  widths = r'another model.*\[32, 10\] there and \S*\[16, 10\]'
  with pytest.raises(ValueError, match=widths):
    checkpoints.restore(path / 'checkpoints', runs.create(config)[0].init(None))


def test_digest_sees_every_bit_and_shape():
  tree = {'w': jnp.arange(4.), 'key': jax.random.key(0), 'dense': None}
  changed = [
      {**tree, 'w': tree['w'].at[2].add(1e-6)},
      {**tree, 'w': tree['w'].reshape(2, 2)},
      {**tree, 'key': jax.random.key(1)}]
  digests = {checkpoints.digest(other) for other in [tree, *changed]}
  assert len(digests) == 4
  assert checkpoints.digest(dict(tree)) in digests


def test_what_is_saved_is_read_without_knowing_what_it_was(tmp_path):
  tree = {'done': jnp.int32(2), 'masks': {'a/b': jnp.ones(3, bool), 'c': None}}
  assert checkpoints.load(tmp_path / 'none') == (0, None)
  for step in (1, 2):
    checkpoints.save(tmp_path / 'saved', step, tree)
  step, found = checkpoints.load(tmp_path / 'saved')
  assert step == 2 and checkpoints.digest(found) == checkpoints.digest(tree)
  for _ in range(2):  # Over what a killed run may have left.
    checkpoints.export(tmp_path / 'given', tree)
  given = checkpoints.read(tmp_path / 'given')
  assert checkpoints.digest(given) == checkpoints.digest(tree)
  assert given['masks']['c'] is None
