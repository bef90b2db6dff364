"""Names for types: what they have in common with chex's."""

import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse._utils import typing as types


def test_names_mean_what_they_mean_in_chex():
  assert {*typing.get_args(types.Numeric)} == {*typing.get_args(chex.Numeric)}
  assert hasattr(chex, 'ArrayTree')  # Ours is wider, as its comment says.


@pytest.mark.parametrize('x, is_one', [
    (0.5, True), (3, True), (True, True), (np.float32(1.), True),
    (np.ones(2), True), ('0.5', False), (None, False), (1j, False)])
def test_numeric_is_a_real_number_or_an_array(x, is_one):
  assert isinstance(x, types.Numeric) == is_one


def test_numeric_may_be_an_array_of_jax_or_traced():
  assert isinstance(jnp.ones(2), types.Numeric)
  seen = []
  jax.jit(lambda x: seen.append(isinstance(x, types.Numeric)))(1.)
  assert seen == [True]
