"""Compiling without the hardware, where the wheels for it are."""

import subprocess
import sys

import pytest

from experiments.benchmarks import aot

_FINE = """
ptxas info    : 0 bytes gmem
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers
"""


def test_a_fine_log_has_no_problems():
  assert not aot.ptxas_problems(_FINE)


@pytest.mark.parametrize('line, problem', [
    ('8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads',
     '24 bytes of spill loads'),
    ('ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async '
     'instructions are serialized due to ...', 'serialized'),
    ('ptxas warning : setmaxnreg ignored', 'setmaxnreg')])
def test_spills_and_serialised_instructions_are_problems(line, problem):
  assert problem in '; '.join(aot.ptxas_problems(_FINE + line))


def test_a_log_that_says_nothing_is_a_problem():
  assert aot.ptxas_problems('')


def test_no_config_is_compiled_without_the_wheels(monkeypatch):
  monkeypatch.setattr(aot.importlib.util, 'find_spec', lambda name: None)
  assert not aot.installed('h200')
  assert not aot.installed('v5e')


@pytest.mark.parametrize('target', ['h200', 'v5e'])
def test_the_kernels_compile(target):
  if not aot.installed(target):
    pytest.skip(f'the wheels that compile for {target} are not installed')
  result = subprocess.run(
      [sys.executable, '-m', 'experiments.benchmarks.aot',
       f'--targets={target}', '--tokens=16,1024', '--sizes=4096x4096'],
      capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stdout + result.stderr
  assert f'| {target}' in result.stdout
