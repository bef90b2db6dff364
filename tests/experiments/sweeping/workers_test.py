"""Processes that share jobs."""

import jax
import pytest

from experiments.sweeping import workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('launched')]


def test_worker_that_dies_costs_its_job_alone():
  jobs = ['1 + 1', '1 / 0', '__import__("os")._exit(3)', '2', '3']
  outcomes = list(workers.each(eval, jobs, workers=2))
  assert {outcome.job: outcome.error for outcome in outcomes} == {
      '1 + 1': '', '2': '', '3': '',
      '1 / 0': 'ZeroDivisionError: division by zero',
      '__import__("os")._exit(3)': 'its process died (exit code 3)'}


def test_programs_of_a_job_are_given_back():
  double = jax.jit(lambda x: 2 * x)
  outcome, = workers.each(double, [1.], workers=1)
  assert not outcome.error and not double._cache_size()
