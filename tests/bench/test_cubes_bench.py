"""The volumetric network's benchmarks: the peer is the same network, and what is counted is what runs."""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from quick_programs import QUICK
from tiny_sam3d import ON_VIT, made_up

from bench import cube_programs, cubes
from bench.accelerator_plan import STAGES
from bench.accelerator_sizes import FULL, TINY
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.prompts import ABSENT
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import SAM3D_LITEMEDSAM_64, SAM3D_TINY, SAM3D_VIT_B

NAMES = (
  (r"encoder/(adapter|block)(\d+)", r"encoder/\1s/\2"), (r"encoder/depth_position", "encoder/depth/position"),
  (r"neck(\d)/kernel", r"necks/\1/map/kernel"), (r"neck(\d)", r"necks/\1"),
  (r"prompts/(block|querie)s?(\d)", r"prompts/\1s/\2"), (r"self_attention", "own"), (r"token_to_image", "to_image"),
  (r"image_to_token", "to_token"), (r"(?<=/)(query|key|value)(?=/)", lambda match: f"maps/{'qkv'.index(match[1][0])}"),
  (r"(prompts/.+)norm(\d)", r"\1norms/\2"), (r"mlp/linear(\d)", lambda match: f"mlp/{2 * int(match[1])}"),
  (r"decoder/scale(\d)", r"decoder/scales/\1"), (r"decoder/(join|classes)", r"decoder/\1/kernel"),
)  # fmt: skip


def for_peer(params):
  """Our parameters by the peer's names, as PyTorch lays them out."""
  import torch

  given, flat = {}, flatten_dict(params, sep="/")
  flat["decoder/join"] = np.concatenate([flat["decoder/join"], flat.pop("decoder/box")], -2)
  for name, leaf in flat.items():
    for pattern, other in NAMES:
      name = re.sub(pattern, other, name)
    if name.endswith("kernel") and name != "encoder/depth/kernel":
      leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
      name = name.removesuffix("kernel") + "weight"
    given[name.replace("scale", "weight") if name.endswith("scale") else name] = torch.from_numpy(leaf.copy())
  return {name.replace("/", "."): leaf for name, leaf in given.items()}


def test_the_peer_gives_what_ours_gives_from_the_same_weights():
  torch = pytest.importorskip("torch")
  from bench.peer_cubes import PeerSam3D

  params, peer = made_up(parameters.shapes(ON_VIT)), PeerSam3D(ON_VIT.variant)
  given = for_peer(params)
  missing, strange = peer.load_state_dict(given, strict=False)
  assert not strange and not {name for name, _ in peer.named_parameters()} & set(missing)

  asked = cube_programs.asked(ON_VIT.variant, 2)
  asked.labels[0, 1, 6] = 1  # beside absent points, one that counts
  assert (asked.labels == ABSENT).any()
  volume = np.concatenate([asked.volume, asked.volume[:, ::-1]])
  both = [volume, *(np.repeat(each, 2, 0) for each in asked[1:])]
  ours = jax.jit(ON_VIT.apply, compiler_options=QUICK)({"params": params}, *both)
  with torch.no_grad():
    together = peer(*map(torch.from_numpy, both)).numpy()
    # tokens of one cube are shared by its organs
    alone = [peer(*(torch.from_numpy(each[cube : cube + 1]) for each in both)).numpy() for cube in range(2)]
  for theirs in (together, np.concatenate(alone)):
    np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
  ("variant", "more"),
  [
    pytest.param(SAM3D_VIT_B, 0.002, marks=pytest.mark.slow, id="vit-b"),
    pytest.param(SAM3D_LITEMEDSAM_64, 0.03, id="64"),
  ],
)
def test_the_peer_trains_as_many_parameters_and_does_as_much_work(variant, more):
  """But for the padding of TinyViT's windows, which the published program maps back before it is cut off."""
  torch = pytest.importorskip("torch")
  from torch.utils.flop_counter import FlopCounterMode

  from bench.peer_cubes import PeerSam3D

  with torch.device("meta"):
    peer = PeerSam3D(variant).eval()
  trained, _ = parameters.split(parameters.shapes(Sam3D(variant)))
  ours = sum(leaf.size for leaf in jax.tree.leaves(trained))
  theirs = sum(each.numel() for each in peer.parameters() if each.requires_grad)
  assert theirs == ours

  given = [torch.from_numpy(each).to("meta") for each in cube_programs.asked(variant, 1)]
  depthwise = []  # ours has sums of shifted arrays there
  for layer in peer.modules():
    if getattr(layer, "groups", 1) > 1:
      layer.register_forward_hook(lambda m, _, out: depthwise.append(2 * out.numel() * m.weight[0].numel()))
  with FlopCounterMode(display=False) as counter, torch.no_grad():
    peer(*given)
  work = counter.get_total_flops() - sum(depthwise)
  assert work == pytest.approx(cube_programs.forward_flop(variant, 1), rel=more)


def test_a_step_is_traced_with_the_shapes_that_it_runs_on(monkeypatch):
  monkeypatch.setattr(cube_programs, "random_sam", lambda variant: None)
  settings = cube_programs.settings_of("sam3d-tiny", organs=2)

  class Scratch(cube_programs.Adapting):
    """With weights made up, frozen ones too."""

    def __init__(self, settings, module, base, mesh):
      super().__init__(settings, module, None, mesh)
      self._start, self.frozen = parameters.split(self._start)

  monkeypatch.setattr(cube_programs, "Adapting", Scratch)
  real, shapes = cube_programs.stepping(settings), cube_programs.step_shapes(settings)
  assert jax.tree.structure(real) == jax.tree.structure(shapes)
  for a, b in zip(jax.tree.leaves(real), jax.tree.leaves(shapes), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
  shown = np.asarray(real.batch.labels)[0]
  assert set(np.unique(shown)) == {0, 1, 2} and (np.bincount(shown.ravel())[1:] > 30).all()


@pytest.mark.slow
def test_what_remat_works_out_again_is_counted():
  kept, again = (
    cube_programs.step_flop(cube_programs.settings_of("sam3d-tiny", remat=remat)) for remat in (False, True)
  )
  once = cube_programs.forward_flop(SAM3D_TINY, 1)
  assert 2 * once < kept < again < kept + 1.2 * once


@pytest.mark.slow
def test_rows_of_the_roofline_hold_every_program(monkeypatch):
  monkeypatch.setattr(cubes, "PUBLISHED", "sam3d-tiny")
  columns = {column.header: list(column.cells) for column in cubes._roofline().columns}
  assert columns["program"] == [name for name in ("forward", "training step", "training step, remat") for _ in range(2)]
  assert columns["chip"] == ["TPU v5e", "H100"] * 3
  assert all(float(a) < float(b) for a, b in zip(columns["GB, products"], columns["GB, no fusion"], strict=True))


def test_the_accelerators_plan_has_every_case_of_the_published_networks():
  worker = pytest.importorskip("bench.accelerator_worker")
  known = worker.stages(pytest.importorskip("bench.accelerator_cases"))
  for name in ("cubes", "cube-step"):
    assert len(list(known[name](TINY))) * len(FULL.cubes) == STAGES[name].cases, name
