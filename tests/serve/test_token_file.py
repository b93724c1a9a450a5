"""A token that is kept is its owner's alone."""

import os
import stat

import pytest

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.serve.token_file import kept_token


def test_it_is_made_once(tmp_path):
  path = tmp_path / "token"
  token = kept_token(path)
  assert len(token) > 40 and kept_token(path) == token
  assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions are of POSIX")
def test_others_may_not_read_it(tmp_path):
  path = tmp_path / "token"
  kept_token(path)
  path.chmod(0o644)
  with pytest.raises(InputError, match="other users may read it"):
    kept_token(path)


def test_what_is_no_token(tmp_path):
  path = tmp_path / "token"
  path.write_text("short\n")
  path.chmod(0o600)
  with pytest.raises(InputError, match="holds no token"):
    kept_token(path)
  with pytest.raises(OutputError, match="cannot be used"):
    kept_token(tmp_path / "nowhere" / "token")
