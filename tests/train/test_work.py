"""Counted work is that of products written out by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from medlsam_jax.train.work import flop_of
from medlsam_jax.volume_layers.convolution import conv3


def shape(*edges):
  return jax.ShapeDtypeStruct(edges, jnp.float32)


def test_a_product_counts_once_for_each_turn_of_a_loop():
  assert flop_of(jnp.matmul, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
  assert flop_of(lambda x, y: lax.map(lambda row: row @ y, x), shape(7, 3, 4), shape(4, 5)) == 7 * 2 * 3 * 4 * 5


def test_a_convolution_counts_as_on_an_accelerator_whatever_lowers_it_here():
  assert flop_of(conv3, shape(2, 8, 8, 8, 16), shape(3, 3, 3, 16, 5)) == 2 * 2 * 8**3 * 27 * 16 * 5


def test_work_within_jit_and_rematerialisation_counts():
  assert flop_of(jax.jit(jax.checkpoint(jnp.matmul)), shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
