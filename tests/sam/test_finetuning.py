"""Fine-tuning runs around networks of the SAM family that are small enough to compile in seconds."""

import contextlib
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from etils import epath
from finetuning_runs import LITE, changed, settings
from flax.traverse_util import flatten_dict
from sam_weights import tiny_network

from medlsam_jax.cli.trained_network import which
from medlsam_jax.errors import ConfigError, InputError, WeightsError
from medlsam_jax.network import Network
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.sam.finetuning import mask_batches, mask_loss, recipe, scores_file, step
from medlsam_jax.sam.finetuning.distillation import cell_matrix
from medlsam_jax.sam.finetuning.settings import MaskLossSettings
from medlsam_jax.sam.network.image_encoder import ViTSizes
from medlsam_jax.sam.network.sam import Sam, SamVariant
from medlsam_jax.sam.slices import ImageFit
from medlsam_jax.train import checkpoint, loop
from medlsam_jax.train.sigterm import Stopped

pytestmark = [
  pytest.mark.usefixtures("quick_steps"),
  # every 20th slice of the small queries misses an organ
  pytest.mark.filterwarnings("ignore:data.validation shows nothing of gamma"),
]


@pytest.mark.slow
def test_decoder_learns_from_embeddings_that_are_computed_once(tmp_path, mini_templates, mini_queries):
  network, said, encoded = tiny_network(), {}, []
  # by a figure that nobody measures no step is the best: the last one's weights are given, better or not
  chosen = settings(
    mini_templates, mini_queries, checkpoint={"best_metric": "organ_none_dice"},
    optimizer={"kind": "adamw", "total_steps": 8, "learning_rate": 3e-3, "decay": "constant", "l2": 0.0,
               "warmup_steps": 0, "clip_norm": 0.0},
  )  # fmt: skip
  variables, header = recipe.run(
    chosen, network, tmp_path, lambda s, m: said.setdefault(s, {}).update(m), bar=lambda *a: encoded.append(a)
  )
  assert changed(network.variables, variables) == {"params/mask_decoder"}
  assert np.mean([said[s]["loss"] for s in (7, 8)]) < np.mean([said[s]["loss"] for s in (1, 2)])
  assert header["kind"] == "sam-vit-b" and header["finetuned_from"] == network.sha256
  scores = json.loads((tmp_path / "validation.json").read_text())
  assert set(scores) == {"0", "8"} and set(scores["8"]) == {"q0", "q1"}
  organs = {organ for of_scan in scores["8"].values() for organ in of_scan}
  mean = np.mean([np.mean([each[organ] for each in scores["8"].values() if organ in each]) for organ in organs])
  assert said[8]["validation_dice"] == pytest.approx(mean)
  assert encoded
  encoded.clear()
  again, _ = recipe.run(chosen, network, tmp_path, bar=lambda *a: encoded.append(a))
  assert not encoded and not changed(variables, again)


@pytest.mark.slow
def test_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, mini_templates, lite, monkeypatch):
  chosen = settings(mini_templates)
  whole, _ = recipe.run(chosen, lite, tmp_path / "whole")

  with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 2"):
    patch.setattr(loop, "stops_on_sigterm", lambda: contextlib.nullcontext(lambda step: step == 2))
    recipe.run(chosen, lite, tmp_path / "broken")
  steps = []
  resumed, _ = recipe.run(chosen, lite, tmp_path / "broken", lambda step, metrics: steps.append(step))
  assert steps == [3]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, resumed)

  with pytest.raises(ConfigError, match="does not fit this config"):
    recipe.run(dataclasses.replace(chosen, train="lora"), lite, tmp_path / "broken")


@pytest.mark.slow
def test_low_rank_updates_change_attention_alone_and_leave_batch_norm(tmp_path, mini_templates, lite):
  variables, _ = recipe.run(settings(mini_templates, train="lora", lora_rank=2), lite, tmp_path)
  assert changed(lite.variables, variables) >= {"params/mask_decoder", "params/image_encoder"}
  encoder = changed(lite.params["image_encoder"], variables["params"]["image_encoder"])
  assert encoder == {f"stage{stage}_block0/attention" for stage in (1, 2, 3)}
  flat = flatten_dict(variables["params"]["image_encoder"]["stage1_block0"], sep="/")
  before = flatten_dict(lite.params["image_encoder"]["stage1_block0"], sep="/")
  update = np.asarray(flat["attention/qkv_kernel"]) - np.asarray(before["attention/qkv_kernel"])
  assert np.linalg.matrix_rank(update, tol=1e-6) == 2


@pytest.mark.slow
def test_whole_model_moves_all_but_the_prompt_encoder_and_its_statistics(tmp_path, mini_templates, lite):
  variables, _ = recipe.run(settings(mini_templates, train="model", batch_norm="updated"), lite, tmp_path)
  assert changed(lite.variables, variables) == {
    "params/mask_decoder", "params/image_encoder", "batch_stats/image_encoder",
  }  # fmt: skip
  assert not (tmp_path / "embeddings").exists()


@pytest.fixture(scope="module")
def teacher():
  """The image encoder of a random ViT that has as many channels, half as many cells, and stretches images."""
  import jax.numpy as jnp

  module = Sam(SamVariant("vit-tiny", 64, ViTSizes(16, 1, 2, (0,), 2, 16, 4, 16), "imagenet", scaling="stretch"))
  shapes = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), method="encode"), jax.random.key(0))
  rng = np.random.default_rng(2)
  variables = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
  return Network(module, dict(variables), "medsam", "vit-tiny")


def test_a_run_that_was_stopped_while_it_embeds_leaves_no_folder(tmp_path, mini_templates):
  def stopped(*_):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    recipe.run(settings(mini_templates), tiny_network(), tmp_path / "new" / "run", bar=stopped)
  assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_student_comes_to_give_the_embeddings_of_its_teacher(tmp_path, mini_templates, lite, teacher):
  said, encoded = {}, []
  chosen = settings(
    mini_templates, train="distill", batch_norm="updated", teacher="vit-tiny",
    optimizer={"kind": "adamw", "total_steps": 12, "learning_rate": 1e-2, "decay": "constant", "l2": 1e-4,
               "warmup_steps": 0, "clip_norm": 0.0},
  )  # fmt: skip

  def run(teacher):
    return recipe.run(chosen, lite, tmp_path, said.__setitem__, bar=lambda *a: encoded.append(a), teacher=teacher)

  variables, header = run(teacher)
  assert changed(lite.variables, variables) == {"params/image_encoder", "batch_stats/image_encoder"}
  assert np.mean([said[s]["loss"] for s in (11, 12)]) < 0.8 * np.mean([said[s]["loss"] for s in (1, 2)])
  assert said[12]["cosine"] > said[1]["cosine"]
  assert header["distilled_from"] == teacher.sha256 and header["kind"] == "litemedsam"
  assert encoded
  encoded.clear()
  again, _ = run(teacher)
  assert not encoded and not changed(variables, again)
  with pytest.raises(ConfigError, match="another network"):
    run(dataclasses.replace(teacher, variables=jax.tree.map(lambda a: a + 1, teacher.variables)))


def test_only_a_tiny_vit_learns_from_a_teacher_of_as_many_channels(tmp_path, mini_templates, lite, teacher):
  chosen = settings(mini_templates, train="distill", teacher="other")
  with pytest.raises(ConfigError, match="no TinyViT"):
    recipe.run(chosen, teacher, tmp_path, teacher=teacher)
  with pytest.raises(ConfigError, match=r"32 channels.*16"):
    recipe.run(chosen, lite, tmp_path, teacher=tiny_network())
  with pytest.raises(ConfigError, match="name the network to learn from"):
    recipe.run(settings(mini_templates, train="distill"), lite, tmp_path)
  with pytest.raises(ConfigError, match="leave it out"):
    recipe.run(settings(mini_templates, teacher="medsam"), lite, tmp_path, teacher=teacher)


def test_teachers_cells_are_laid_where_the_students_are():
  padded, stretched = (ImageFit(40, 80, 64, scaling) for scaling in ("pad", "stretch"))
  alike, seen = cell_matrix(padded, ImageFit(40, 80, 128, "pad"), 8, 8, "y")
  np.testing.assert_allclose(alike, np.eye(8), atol=1e-6)
  assert seen.all()
  # 40 rows are the upper half of the student's image and the whole of the teacher's
  rows, seen = cell_matrix(padded, stretched, 8, 8, "y")
  np.testing.assert_array_equal(seen, [1] * 4 + [0] * 4)
  np.testing.assert_allclose(rows[:4] @ np.arange(8), [0.5, 2.5, 4.5, 6.5], atol=1e-6)
  np.testing.assert_allclose(cell_matrix(padded, stretched, 8, 8, "x")[0], np.eye(8), atol=1e-6)


@functools.partial(jax.jit, donate_argnums=0)
def grow(state):
  """A step that adds 1 to all that is trained."""
  return state._replace(step=state.step + 1, params=jax.tree.map(lambda a: a + 1, state.params))


@pytest.fixture
def scored(monkeypatch):
  """Makes a run's scores those that are given by step, and its training an addition; gives what was validated."""

  def prepare(scores):
    seen = {}

    def validation(tuning, *rest):
      def validate(step, state):
        seen[step] = jax.device_get(tuning.variables(state))
        return {"validation_dice": scores[step]}

      return validate

    monkeypatch.setattr(step, "_compiled_step", lambda *_: lambda state, *rest: (grow(state), {"loss": 0.0}))
    monkeypatch.setattr(recipe, "_validation", validation)
    return seen

  return prepare


@pytest.mark.slow
def test_weights_of_the_best_validated_step_are_given(tmp_path, mini_templates, mini_queries, lite, scored):
  seen = scored({0: 0.7, 1: 0.2, 2: 0.8, 3: 0.5})
  chosen = settings(mini_templates, mini_queries, train="model", validate_every_steps=1)
  best, header = recipe.run(chosen, lite, tmp_path)
  assert not changed(best, seen[2]) and changed(best, seen[3])
  assert header["trained_steps"] == "2"
  assert which(header, "validation_dice") == "of step 2, the best by validation_dice: 0.800"
  assert which({"trained_steps": "3"}, "validation_dice") == "of step 3, the last"
  again, _ = recipe.run(chosen, lite, tmp_path)
  assert not changed(again, best)


def test_the_network_as_it_was_given_is_a_candidate(tmp_path, mini_templates, mini_queries, lite, scored):
  """What ended worse than it began, or no better, is not called the best; nor after a restart."""
  seen = scored({0: 0.66, 1: 0.64, 2: 0.66, 3: 0.636})
  chosen = settings(mini_templates, mini_queries, train="model", validate_every_steps=1)
  best, header = recipe.run(chosen, lite, tmp_path)
  assert not changed(best, lite.variables) and changed(seen[3], lite.variables)
  assert header["trained_steps"] == "0" and float(header["validation_dice"]) == pytest.approx(0.66)
  seen.clear()
  again, header = recipe.run(chosen, lite, tmp_path)
  assert not changed(again, lite.variables) and header["trained_steps"] == "0" and not seen


def test_the_score_before_training_is_measured_again_where_an_older_checkpoint_does_not_have_it(
  tmp_path, mini_templates, mini_queries, lite, scored, monkeypatch
):
  scored({0: 0.66, 1: 0.64, 2: 0.65, 3: 0.63})
  chosen = settings(mini_templates, mini_queries, train="model", validate_every_steps=1)
  save = checkpoint.Checkpoints.save

  def older(self, step, state, settings, loader, metrics):
    save(self, step, state, settings, {k: v for k, v in loader.items() if k != "before"}, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", older)
    recipe.run(chosen, lite, tmp_path)
  seen = scored({0: 0.66})
  _, header = recipe.run(chosen, lite, tmp_path)
  assert header["trained_steps"] == "0" and not changed(seen[0], lite.variables)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_its_steps_alone(tmp_path, mini_templates, mini_queries, lite, scored):
  scored({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4})
  chosen = settings(mini_templates, mini_queries, train="model", validate_every_steps=1)
  whole, _ = recipe.run(chosen, lite, tmp_path)
  (tmp_path / "checkpoints" / "3" / "state" / "_METADATA").unlink()
  said = []
  with pytest.warns(MedlsamWarning, match=r"step 3: .*going on from step 2"):
    again, header = recipe.run(chosen, lite, tmp_path, lambda step, metrics: said.append(step))
  assert header["trained_steps"] == "3" and set(said) == {3}
  assert not changed(again, whole)


def test_scores_of_steps_that_are_measured_anew_are_forgotten(tmp_path):
  path = epath.Path(tmp_path) / scores_file.VALIDATION_FILE
  scores_file.write_scores(path, {str(step): {"scan": {"liver": 0.5}} for step in (0, 2, 4)})
  scores_file.forget_scores(path, 2)
  assert set(json.loads(path.read_text())) == {"0", "2"}
  path.write_text('{"0": {"sc')
  with pytest.warns(MedlsamWarning, match="scores in it are lost"):
    assert scores_file.read_scores(path) == {}


def test_held_out_scans_that_show_no_organ_are_refused_and_organs_that_none_shows_are_named(
  tmp_path, mini_templates, mini_queries, lite
):
  """Without them Dice would be the mean of nothing."""
  with pytest.raises(InputError, match=r"data.validation .*no slice shows any of alpha.*validation_slice_step 500"):
    recipe.run(settings(mini_templates, mini_queries, data={"validation_slice_step": 500}), lite, tmp_path / "none")
  assert not (tmp_path / "none").exists()
  chosen = settings(mini_templates, mini_queries).data
  learnt = mask_batches.slices_to_learn(chosen, LITE)
  learnt.items += [dataclasses.replace(learnt.items[0], organs=("spleen",))]
  with pytest.warns(MedlsamWarning, match="nothing of gamma, spleen"):
    mask_batches.slices_to_validate(chosen, LITE, learnt)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"train": "lora", "lora_rank": 9}, "lora_rank 9 is above 8"),
    ({"train": "lora", "lora_rank": 0}, "lora_rank 0"),
    ({"batch_norm": "updated"}, "batch_norm updated: with train decoder"),
    ({"optimizer": {"total_steps": 10, "warmup_steps": 10, "decay": "cosine"}}, "warmup_steps 10 .*total_steps 10"),
    ({"optimizer": {"ema_decay": 0.9}}, "are for pre-training"),
    ({"checkpoint": {"best_metric": "validation_error_mm"}}, "best_metric 'validation_error_mm' is not measured"),
    ({"loss": {"dice": 0.0, "bce": 0.0}}, "loss.dice and loss.bce are both 0"),
    ({"loss": {"dice": -1.0}}, "loss.dice -1"),
    ({"data": {"windows": ["liver"]}}, "data.windows"),
    ({"data": {"images_per_step": 0}}, "data.images_per_step 0"),
    ({"data": {"slice_step": 0}}, "data.slice_step 0"),
    ({"data": {"jitter_px": -1}}, "data.jitter_px -1"),
    ({"validate_every_steps": 0}, "validate_every_steps 0"),
    ({"mesh": {"model": 3}}, "mesh.model 3"),
  ],
)
def test_settings_that_cannot_go_together_are_refused_before_a_scan_is_read(tmp_path, lite, monkeypatch, fields, words):
  monkeypatch.setattr(recipe, "slices_to_learn", lambda *_: pytest.fail("scans were read"))
  with pytest.raises(ConfigError, match=words):
    recipe.run(settings(tmp_path / "scans", **fields), lite, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_organ_that_no_slice_shows_is_named(tmp_path, mini_templates, lite):
  with pytest.raises(InputError, match=r"no slice shows beta.*data\.least_pixels"):
    recipe.run(settings(mini_templates, data={"organs": ["beta"], "least_pixels": 60000.0}), lite, tmp_path)
  with pytest.raises(ConfigError, match="nothing to learn from"):
    recipe.run(settings(mini_templates, data={"scans": []}), lite, tmp_path)


def test_scan_to_learn_from_is_not_validated_on(tmp_path, mini_templates, lite):
  with pytest.raises(ConfigError, match=r"t0_ct.nii.gz, \S*t1_ct.nii.gz would be trained on"):
    recipe.run(settings(mini_templates, mini_templates), lite, tmp_path)


def test_scan_to_learn_from_is_not_validated_on_under_another_name(tmp_path, mini_templates, lite):
  (tmp_path / "linked").mkdir()
  for name, other in (("t0_ct.nii.gz", "other_ct.nii.gz"), ("t0_seg.nii.gz", "other_seg.nii.gz")):
    (tmp_path / "linked" / other).symlink_to(mini_templates / name)
  (tmp_path / "linked" / "labels.json").symlink_to(mini_templates / "labels.json")
  with pytest.raises(ConfigError, match=r"other_ct.nii.gz would be trained on"):
    recipe.run(settings(mini_templates, tmp_path / "linked"), lite, tmp_path / "run")


@pytest.mark.slow
def test_other_networks_are_refused(tmp_path, mini_templates, lite, small_network_file):
  from medlsam_jax.loading import load

  with pytest.raises(WeightsError, match="no masks"):
    recipe.run(settings(mini_templates), load(small_network_file), tmp_path)
  folded = dataclasses.replace(lite, module=lite.module.clone(folded=True))
  with pytest.raises(WeightsError, match="for_training"):
    recipe.run(settings(mini_templates), folded, tmp_path)


def test_loss_terms_by_hand():
  logits = np.array([[[2.0, -2.0], [0.0, 1.0]]], np.float32)
  truth = np.array([[[True, False], [True, True]]])
  p = 1 / (1 + np.exp(-logits[0]))
  dice = 1 - 2 * p[truth[0]].sum() / ((p**2).sum() + 3)
  bce = -(np.log(p[truth[0]]).sum() + np.log(1 - p[0, 1])) / 4
  total, terms = mask_loss.mask_loss(logits, np.array([0.5]), truth, MaskLossSettings(dice=1, bce=2, iou=3))
  assert terms["dice_loss"] == pytest.approx(dice, abs=1e-4) and terms["bce_loss"] == pytest.approx(bce, abs=1e-5)
  # two of three pixels are above 0, none too many
  assert terms["mask_iou"] == pytest.approx(2 / 3) and terms["iou_loss"] == pytest.approx((2 / 3 - 0.5) ** 2, abs=1e-5)
  assert total == pytest.approx(dice + 2 * bce + 3 * (2 / 3 - 0.5) ** 2, abs=1e-4)
