"""Every command that a document, a config's header or a `--help` shows is run, with small files in place of the named.

Training, probing and painting are stood in for: what counts is that the call is complete and that its options exist.
A call with `...` in it is a part of one: its options must exist.
"""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled_series import write_labelled

from medlsam_jax.cli import main as command_line
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.sam.finetuning.settings import FinetuneSettings
from medlsam_jax.sam3d.training.settings import AdaptSettings

ROOT = Path(__file__).parents[2]
PAGES = [
  ROOT / "README.md",
  *sorted((ROOT / "docs").glob("*.md")),
  *sorted((ROOT / "medlsam_jax" / "weights").glob("*.md")),
  *sorted((ROOT / "configs").glob("*.py")),
  *sorted((ROOT / "launch").iterdir()),
]
IN_SHELL = {
  '"$run"': "runs/mine", '"$prepared"': "prepared", '"$PREPARED"': "prepared", '"$((gpus * 4))"': "4", '"$@"': "",
  '~/bucket/"${RUN#gs://$bucket/}"': "runs/mine", "gs://bucket/ct": "prepared", "/tmp/shards": "shards",
  "DIR_OR_LIST": "train/", "REAL_CT,CTA_CT": "a_ct.nii.gz,b_ct.nii.gz", "CT.nii.gz": "patient.nii.gz",
  "$SLURM_ARRAY_TASK_ID/8": "1/8",
  "DIR": "templates/", "FILE": "organs.safetensors", "RUN": "runs/mine", "NAME": "litemedsam", "/tmp/smoke": "smoke",
}  # fmt: skip
"""What stands for what in the shown calls, besides the files of `folder`."""
SEVERAL = {"bank", "data", "study", "weights"}
"""Commands with a second word."""


def calls(text):
  """Whole calls (lines of their own), and mentions between backticks."""
  text = text.replace("\\\n", " ")
  lines = re.findall(r"^\s*(?:\$ |exec |exec srun \S+ )?(medlsam [a-z][^`\n]*)$", text, re.M)
  whole = [re.sub(r"\s{2,}(#|[a-z]).*", "", line).strip() for line in lines]
  return whole, [" ".join(mention.split()) for mention in re.findall(r"`(medlsam [a-z][^`]*)`", text)]


def shown():
  for page in PAGES:
    whole, mentions = calls(page.read_text())
    complete = page.name == "README.md"
    for call in [*whole, *mentions]:
      part = "..." in call or (call in mentions and (not complete or len(call.split()) <= 3))
      yield pytest.param(call, part, id=f"{page.name}: {call}")
  for parser in parsers(command_line.build_parser()):
    for call in calls(parser.epilog or "")[0]:
      yield pytest.param(call, "..." in call, id=f"--help: {call}")


def parsers(parser):
  """A parser and those of its commands."""
  yield parser
  for action in parser._actions:
    for inner in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
      yield from parsers(inner)


@pytest.fixture(scope="module")
def files(tmp_path_factory, mini_templates, mini_queries, small_network_file):
  """Every file and folder that the documents name."""
  root = tmp_path_factory.mktemp("shown")
  names = '{"liver": 1, "spleen": 2, "pancreas": 3}'
  for name in ("templates", "my_templates", "train", "held_out", "labelled"):
    shutil.copytree(mini_templates, root / name)
    (root / name / "labels.json").write_text(names)
  shutil.copytree(mini_queries, root / "test")
  (root / "test" / "labels.json").write_text(names)
  (root / "test" / "q1_ct.nii.gz").unlink()
  (root / "test" / "q1_seg.nii.gz").unlink()
  (root / "new_scans").mkdir()
  scan = root / "test" / "q0_ct.nii.gz"
  for name in ("patient.nii.gz", "patient_ct.nii.gz", "a_ct.nii.gz", "b_ct.nii.gz", "new_scans/one_ct.nii.gz"):
    shutil.copy(scan, root / name)
  write_labelled(root / "series", plane=(28, 24))
  (root / "scans.txt").write_text("a_ct.nii.gz\nb_ct.nii.gz\n")
  (root / "lite_medsam.pth").write_text("")
  for name in ("MedLAM.pth", "medlam.pth"):
    shutil.copy(ROOT / "tests" / "golden" / "medlam_random.pth", root / name)
  common = ["--network", small_network_file, "--quiet"]
  run("bank", "build", root / "templates", "--out", root / "organs.safetensors", "--mode", "WPL", *common)
  shutil.copy(root / "organs.safetensors", root / "organs.bank.safetensors")
  run("localize", "--bank", root / "organs.safetensors", "--query", scan, "--out", root / "out", *common)
  for old in (root / "out").glob("q0_*"):
    shutil.copy(old, root / "out" / old.name.replace("q0", "patient"))
  shutil.copytree(root / "out", root / "results")
  run("evaluate", "--predictions", root / "results", "--truth", root / "test", "--out", root / "scores", "--quiet")
  run("data", "prepare", root / "scans.txt", "--out", root / "prepared", "--quiet")
  return root


def run(*words):
  assert command_line.main([str(word) for word in words]) == 0


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
  """A copy of the files, to stand in."""
  shutil.copytree(files, tmp_path / "here")
  monkeypatch.chdir(tmp_path / "here")
  return tmp_path / "here"


@pytest.fixture
def stand_ins(monkeypatch, painter, small_network_file):
  """Nothing is trained, probed, painted, fetched or served."""
  from medlsam_jax import loading
  from medlsam_jax.cli import demo, probe
  from medlsam_jax.evaluation import prompt_report, prompts
  from medlsam_jax.evaluation.probe import Probe
  from medlsam_jax.medlam.pretraining import export, recipe
  from medlsam_jax.sam.finetuning import recipe as finetuning
  from medlsam_jax.sam3d.adapter_file import Adapted
  from medlsam_jax.sam3d.training import recipe as adapting
  from medlsam_jax.serve import listening, viewers
  from medlsam_jax.train import cluster

  listen = listening.listen
  monkeypatch.setattr(listening, "listen", lambda _: listen(0))
  monkeypatch.setattr(listening, "run", lambda *_: None)
  monkeypatch.setattr(viewers, "warm", lambda _: None)
  find = loading._find
  published = (*loading.PACKAGED, *loading.PUBLISHED)
  weights = ({"params": {"x": np.zeros(1, np.float32)}}, {"kind": "litemedsam", "trained_steps": "1"})
  monkeypatch.setattr(loading, "_find", lambda name: find(small_network_file if name in published else name))
  monkeypatch.setattr(loading, "get", lambda name, *_, **__: Path(name))
  monkeypatch.setattr(recipe, "run", in_workdir(1, {"conv0": {"kernel": np.zeros(1, np.float32)}}))
  monkeypatch.setattr(finetuning, "run", in_workdir(2, weights))
  no_gain = Adapted(None, {}, {}, {"trained_steps": "0", "validation_dice": "0.5"})
  monkeypatch.setattr(adapting, "run", in_workdir(2, no_gain))
  monkeypatch.setattr(cluster, "connect", lambda _: None)
  monkeypatch.setattr(export, "export", lambda *_: (1, {}))
  monkeypatch.setattr(probe, "_of_checkpoint", lambda *_: None)
  for source in ("of_phantoms", "of_folders"):
    monkeypatch.setattr(Probe, source, lambda *_, **__: lambda network, parts: {"box_iou": 0.5})
  monkeypatch.setattr(prompts, "run_study", lambda *_: [])
  monkeypatch.setattr(prompt_report, "mode_table", lambda _: [["mode"], ["S1"]])
  monkeypatch.setattr(demo, "run", lambda *_: 0)
  for name in ("write_csv", "write_html"):
    monkeypatch.setattr(prompt_report, name, lambda *_: None)


def in_workdir(position, answer):
  """A run that makes the folder it is given, and answers."""

  def run(*arguments, **_):
    Path(arguments[position]).mkdir(parents=True, exist_ok=True)
    return answer

  return run


def words_of(call):
  for name, meaning in IN_SHELL.items():
    call = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w])", lambda _, m=meaning: m, call)
  call = re.sub(r" > \S+$", "", call)  # where a shell puts what the command prints
  return shlex.split(call.replace("results/litemedsam_boxes", "out/patient_boxes"))[1:]


@pytest.mark.parametrize(("call", "part"), list(shown()))
def test_the_shown_call_works(call, part, request, medlsam, capsys):
  words = words_of(call)
  if part:
    check_options(words)
    return
  request.getfixturevalue("stand_ins")
  here = request.getfixturevalue("folder")
  for name in ("mine", "medlam"):
    (here / "runs" / name).mkdir(parents=True)
  result = medlsam(*words)
  assert result.code == 0, result.err


def check_options(words):
  """Whether the command has the options that a part of a call names."""
  parser = command_line.build_parser()
  for word in words[: 2 if words[0] in SEVERAL else 1]:
    choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    assert word in choices, f"no command {word}"
    parser = choices[word]
  known = {option for action in parser._actions for option in action.option_strings}
  if parser.get_default("takes_settings"):
    every = (PretrainSettings, FinetuneSettings, AdaptSettings)
    known |= {f"--{field.name}" for one in every for field in dataclasses.fields(one)}
  named = [word.partition("=")[0] for word in words if word.startswith("--")]
  assert not [name for name in named if name not in known and "." not in name]


def test_calls_are_found_in_pages_configs_and_help():
  ids = [each.id for each in shown()]
  assert len(ids) > 40
  for start in ("README.md: medlsam segment", "scaling.md: medlsam pretrain", "medlam.py: ", "gpus.sh: ", "--help: "):
    assert any(name.startswith(start) for name in ids), start
