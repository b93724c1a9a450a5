"""Scripts for shells: whole, understood by the shell where it is here, and they know every command."""

import shutil
import subprocess
import sys

import pytest

from medlsam_jax.cli import completion
from medlsam_jax.cli import main as command_line

pytest.importorskip("shtab")
COMPLETED = """
source "$1"
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1)); COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
_shtab_medlsam; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_names_every_command(medlsam, shell, tmp_path):
  result = medlsam("completion", shell)
  assert result.code == 0
  for module in command_line.COMMANDS:
    assert module.__name__.rpartition(".")[2] in result.out
  if shutil.which(shell):
    (tmp_path / "script").write_text(result.out)
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
  ("words", "expected"),
  [("medlsam seg", {"segment"}), ("medlsam bank b", {"build"}), ("medlsam segment --bank ./sc", {"./scans.txt"})],
)
def test_bash_completes_commands_and_files(medlsam, tmp_path, words, expected):
  (tmp_path / "scans.txt").touch()
  (tmp_path / "completed.sh").write_text(medlsam("completion", "bash").out)
  asked = COMPLETED.format(words=words, count=len(words.split()))
  run = subprocess.run(["bash", "-c", asked, "bash", "./completed.sh"], cwd=tmp_path, capture_output=True, text=True)
  assert set(run.stdout.split()) == expected, run.stderr


def test_without_its_extra_a_line_says_what_to_install(medlsam, monkeypatch):
  monkeypatch.setitem(sys.modules, "shtab", None)
  result = medlsam("completion", "bash")
  assert result.code == 2 and "[completion]" in result.err and result.err.count("\n") == 1
