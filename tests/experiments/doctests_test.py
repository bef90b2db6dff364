"""The examples in docstrings of experiments, whose flags pytest cannot load."""

import doctest
import importlib

import pytest

from tests._lib import commands

_MODULES = sorted(
    '.'.join(path.relative_to(commands.ROOT).with_suffix('').parts)
    for path in (commands.ROOT / 'experiments').rglob('*.py')
    if '>>> ' in path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('name', _MODULES)
def test_examples_are_true(name):
  failed, tried = doctest.testmod(importlib.import_module(name))
  assert tried and not failed
