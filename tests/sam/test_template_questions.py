"""Fine-tuning to what templates say: it is shown as painting shows it, and scored against what is really there."""

import json

import numpy as np
import pytest
from etils import epath
from finetuning_runs import LITE, changed, settings

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.sam.finetuning import mask_batches, recipe
from medlsam_jax.sam.finetuning.mask_validation import MaskValidation
from medlsam_jax.sam.finetuning.template_questions import FOLDER, questions_to_learn, questions_to_validate
from medlsam_jax.template_masks.votes import Vote
from medlsam_jax.template_masks.votes_file import FOUND, JITTERED, file_name, write_votes

BY_TEMPLATES = {"prompts": "templates", "slice_step": 1, "validation_slice_step": 1}


def chosen(templates, queries=None, **fields):
  return settings(templates, queries, **{**fields, "data": BY_TEMPLATES | fields.get("data", {})})


def keep_votes(scans, folder, kinds=(FOUND,), shift=0):
  """Votes that are right but for being `shift` voxels too far along the columns."""
  folder.mkdir(exist_ok=True)
  for scan in scans:
    shares = {
      organ: Vote((0, 0, 0), np.roll(scan.labels == value, shift, 2).astype(np.float32))
      for organ, value in scan.values.items()
    }
    write_votes(folder / file_name(scan.name, scan.hu), dict.fromkeys(kinds, shares), "made up")


@pytest.fixture
def people(mini_templates, mini_queries, tmp_path):
  """Slices to learn from and to hold out, and the folder of their votes."""
  asked = chosen(mini_templates, mini_queries).data
  learnt = mask_batches.slices_to_learn(asked, LITE)
  held_out = mask_batches.slices_to_validate(asked, LITE, learnt)
  keep_votes(learnt.scans, tmp_path / FOLDER, (FOUND, JITTERED))
  keep_votes(held_out.scans, tmp_path / FOLDER)
  return learnt, held_out, epath.Path(tmp_path / FOLDER)


def test_a_question_is_the_vote_and_the_answer_what_is_there(people, mini_templates):
  learnt, _, folder = people
  questions, asking = questions_to_learn(learnt, folder)
  data = chosen(mini_templates, data={"jitter_px": 0, "images_per_step": 4}).data
  source = mask_batches.MaskSource(asking, np.zeros((len(asking), 8, 8, 16)), data, 0, range(4), 10, questions)
  batch = source[3]
  assert batch.masks.shape == batch.truth.shape == (4, 32, 32)
  for mask, truth, box in zip(batch.masks, batch.truth, batch.boxes, strict=True):
    assert np.mean((mask > 0) == truth) > 0.95 and truth.any()
    where = np.argwhere(truth)
    np.testing.assert_allclose(box, [*where.min(0)[::-1], *where.max(0)[::-1] + 1], atol=2)
  jittered = mask_batches.MaskSource(asking, None, chosen(mini_templates).data, 0, range(2), 10, questions)
  np.testing.assert_array_equal(jittered[1].masks, jittered[1].masks)


def test_what_no_vote_sees_is_not_asked_for_in_training_but_counts_when_held_out(people, lite):
  learnt, held_out, folder = people
  for scan in (*learnt.scans, *held_out.scans):
    write_votes(
      folder / file_name(scan.name, scan.hu),
      {FOUND: {"alpha": Vote((0, 0, 0), (scan.labels == scan.values["alpha"]).astype(np.float32))}}, "made up",
    )  # fmt: skip
  _, asking = questions_to_learn(learnt, folder)
  assert set(asking.organs) == {"alpha"} != set(learnt.organs)
  questions, scored = questions_to_validate(held_out, folder)
  assert set(scored.organs) == set(held_out.organs)
  scores = MaskValidation(
    lite.module, scored, lambda variables, number: np.zeros((8, 8, 16), np.float32), questions, 1.0
  )
  for of_scan in scores(lite.variables).values():
    assert of_scan["alpha"] == 1 and of_scan["beta"] == 0  # the vote alone has a say here


@pytest.mark.slow
@pytest.mark.usefixtures("quick_steps")
@pytest.mark.filterwarnings("ignore:data.validation shows nothing of gamma")
def test_prompt_encoder_and_decoder_learn_from_votes(people, tmp_path, mini_templates, mini_queries, lite):
  said = {}
  optimizer = {"kind": "adamw", "total_steps": 3, "learning_rate": 3e-3, "decay": "constant", "l2": 0.01,
               "warmup_steps": 0, "clip_norm": 0.0}  # fmt: skip
  asked = chosen(
    mini_templates, mini_queries, train="prompts", optimizer=optimizer, checkpoint={"best_metric": "organ_none_dice"},
    data={"vote_share": 0.0, "slice_step": 12, "validation_slice_step": 20, "window_cells": 4},
  )  # fmt: skip
  variables, header = recipe.run(asked, lite, tmp_path, lambda s, m: said.setdefault(s, {}).update(m))
  assert changed(lite.variables, variables) == {"params/mask_decoder", "params/prompt_encoder"}
  encoder = variables["params"]["prompt_encoder"]
  np.testing.assert_array_equal(encoder["frequencies"], lite.params["prompt_encoder"]["frequencies"])
  assert not np.array_equal(encoder["mask_conv0"]["kernel"], lite.params["prompt_encoder"]["mask_conv0"]["kernel"])
  assert header["trained_part"] == "prompts" and (tmp_path / "embeddings").exists()
  assert said[3]["gradient_norm"] > 0 and set(json.loads((tmp_path / "validation.json").read_text())) == {"0", "3"}
  assert header["window_cells"] == "4"


def test_missing_votes_and_votes_that_see_nothing_are_told(people, tmp_path, mini_templates, lite):
  learnt, _, folder = people
  asked = chosen(mini_templates)
  with pytest.raises(InputError, match=r"t0.*votes are not in .*none.*--bank"):
    recipe.run(chosen(mini_templates, data={"votes": str(tmp_path / "none")}), lite, tmp_path)
  for scan in learnt.scans:
    write_votes(folder / file_name(scan.name, scan.hu), {}, "made up")
  with pytest.raises(InputError, match="see no organ"):
    recipe.run(asked, lite, tmp_path)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"train": "distill"}, "data.prompts templates: train distill"),
    ({"data": {"phantoms": 1}}, "phantoms have no templates"),
    ({"data": {"vote_share": 1.5}}, "data.vote_share 1.5"),
    ({"data": {"vote_jitter_mm": -1}}, "data.vote_jitter_mm -1"),
    ({"train": "lora", "data": {"window_cells": 4}}, "data.window_cells is for"),
    ({"data": {"prompts": "boxes", "window_cells": 4}}, "data.window_cells is for"),
    ({"train": "prompts", "batch_norm": "updated"}, "batch_norm updated: with train prompts"),
  ],
)
def test_settings_that_templates_cannot_go_with_are_refused(tmp_path, lite, fields, words):
  with pytest.raises(ConfigError, match=words):
    recipe.run(chosen(tmp_path / "scans", **fields), lite, tmp_path / "run")
