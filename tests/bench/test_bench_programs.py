"""What the benchmarks read out of compiled and lowered programs."""

import pytest

hlo = pytest.importorskip("bench.hlo")
chips = pytest.importorskip("bench.chips")

COMPILED = """HloModule jit_step, num_partitions=2

%body (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %gathered = f32[8]{0} all-gather(%x), dimensions={0}, metadata={op_name="jit(step)/while/body/concatenate"}
}

ENTRY %main (a: f32[3,3], b: bf16[5]) -> f32[3,3] {
  %a = f32[3,3]{1,0} parameter(0)
  %b = bf16[5]{0} parameter(1)
  %c = s32[] constant(0)
  %sums = (f32[3,3]{1,0}, bf16[5]{0}) all-reduce(%a, %b), to_apply=%add, metadata={op_name="jit(step)/transpose(jvp)"}
  %begun = (s32[], s32[]) all-reduce-start(%c), to_apply=%add, metadata={op_name="jit(step)/jvp()/reduce_sum"}
  %ended = s32[] all-reduce-done(%begun)
  ROOT %first = f32[3,3]{1,0} get-tuple-element(%sums), index=0
}
"""


def test_collectives_are_counted_once_with_the_sizes_of_their_operands():
  gathered, combined, begun = hlo.collectives(COMPILED)
  assert (gathered.kind, gathered.sizes, gathered.repeated) == ("all-gather", (4,), True)
  assert (combined.kind, combined.sizes, combined.repeated) == ("all-reduce", (9, 5), False)
  assert (begun.kind, begun.sizes, begun.repeated) == ("all-reduce", (1,), False)


def test_bytes_of_products_are_those_of_operands_and_results():
  text = (
    "%1 = stablehlo.convolution(%a, %b) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {pad = [[1, 1]]}"
    " : (tensor<2x4x3xbf16>, tensor<3x3x5xbf16>) -> tensor<2x4x5xf32>\n"
    "%2 = stablehlo.add %1, %1 : tensor<2x4x5xf32>\n"
    "%3 = stablehlo.dot_general %2, %c, contracting_dims = [2] x [0] : (tensor<2x4x5xf32>, tensor<5x6xf32>) -> "
    "tensor<2x4x6xf32>\n"
  )
  assert chips.product_bytes(text, ("convolution",)) == 2 * 24 + 2 * 45 + 4 * 40
  assert chips.product_bytes(text) == 2 * 24 + 2 * 45 + 4 * 40 + 4 * (40 + 30 + 48)
