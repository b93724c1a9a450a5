"""One run at a time on a folder, by a lock that dies with its process."""

import os
import signal
import subprocess
import sys

import pytest

from medlsam_jax.cohort.lock import Shard, locked
from medlsam_jax.errors import ConfigError, OutputError

HOLD = """
import sys, time
from pathlib import Path
from medlsam_jax.cohort.lock import locked
with locked(Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path):
  with locked(tmp_path):
    said = rf"another run works on this folder \(process {os.getpid()} on "
    with pytest.raises(OutputError, match=said), locked(tmp_path):
      pass
    with pytest.raises(OutputError, match=f"process {os.getpid()}"), locked(tmp_path, Shard(1, 2)):
      pass
  with locked(tmp_path):
    pass


def test_a_killed_run_holds_nothing(tmp_path):
  with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"process {holder.pid} "), locked(tmp_path):
      pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
      pass


def test_shards_of_one_count_work_beside_each_other_and_nobody_else(tmp_path):
  with locked(tmp_path, Shard(1, 2)), locked(tmp_path, Shard(2, 2)):
    with pytest.raises(OutputError, match=r"shard 1/2, process \d+.*shard 2/2, process"), locked(tmp_path):
      pass
    with pytest.raises(OutputError, match="shard 2/2"), locked(tmp_path, Shard(2, 2)):
      pass
    with pytest.raises(OutputError, match="another run works"), locked(tmp_path, Shard(1, 3)):
      pass
  with locked(tmp_path, Shard(1, 3)):
    pass


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard_is_refused(text):
  with pytest.raises(ConfigError, match="1/8 to 8/8"):
    Shard.of(text)
  assert Shard.of("3/12") == Shard(3, 12)
