"""`medlsam finetune --bank`: each scan is searched and voted on once, and what was voted is what training reads."""

import numpy as np
import pytest

from medlsam_jax.cli import template_votes
from medlsam_jax.io.templates import read_templates
from medlsam_jax.sam.finetuning import recipe
from medlsam_jax.sam.labelled_slices import LabelledScan
from medlsam_jax.template_masks.votes_file import FOUND, JITTERED, file_name, read_votes


@pytest.fixture
def finetune(medlsam, monkeypatch, mini_bank, mini_templates, mini_queries, small_network_file, tmp_path):
  """The command without its training; what is voted on is counted."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.train import cluster

  monkeypatch.setattr(
    recipe, "run", lambda *_: ({"params": {"x": np.zeros(1, np.float32)}}, {"kind": "sam", "trained_steps": "1"})
  )
  monkeypatch.setattr(networks_and_banks, "fetch", lambda *_: None)
  monkeypatch.setattr("medlsam_jax.loading.load", lambda name, **_: name)
  monkeypatch.setattr(cluster, "connect", lambda _: None)
  voted = []
  original = template_votes._Maker.votes
  monkeypatch.setattr(
    template_votes._Maker,
    "votes",
    lambda self, person, learns: voted.append(person.name) or original(self, person, learns),
  )

  def run(*words):
    common = ["--workdir", tmp_path / "run", "--localizer", small_network_file, "--data.prompts=templates"]
    result = medlsam("finetune", *common, f"--data.scans={mini_templates}", f"--data.validation={mini_queries}", *words)
    done = voted.copy()
    voted.clear()
    return result, done

  return run


def test_every_scan_is_voted_on_once_and_anew_for_another_bank(finetune, mini_bank, mini_templates, tmp_path):
  result, voted = finetune("--bank", mini_bank)
  assert result.code == 0 and voted == ["t0", "t1", "q0", "q1"]
  assert finetune("--bank", mini_bank)[1] == []
  person = read_templates(mini_templates)[0]
  scan = LabelledScan.of(person.name, person.scan, person.labels, person.values)
  path = tmp_path / "run" / "votes" / file_name("t0", scan.hu)
  votes, _ = read_votes(path)
  assert set(votes) == {FOUND, JITTERED} and set(votes[JITTERED]) == {"alpha", "beta"}
  likely = votes[JITTERED]["beta"]
  truth = scan.labels[likely.window] == scan.values["beta"]
  assert likely.share[truth].mean() > likely.share[~truth].mean() + 0.3
  path.write_bytes(path.read_bytes()[:100])
  assert finetune("--bank", mini_bank)[1] == ["t0"]
  assert finetune("--bank", mini_bank, "--data.vote_jitter_mm", "2")[1] == ["t0", "t1", "q0", "q1"]


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ([], "give --bank, the templates that ask"),
    (["--bank", "some.safetensors", "--data.prompts=boxes"], "--bank is for --data.prompts=templates"),
  ],
)
def test_a_bank_and_its_prompts_go_together(finetune, words, said):
  result, voted = finetune(*words)
  assert result.code == 2 and said in result.err and not voted
