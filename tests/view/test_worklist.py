"""Which scans a folder of results is of: those that its files name, none whose results would lie elsewhere."""

import json

from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.manifest import Record
from medlsam_jax.view.worklist import scans_of


def test_a_name_that_leads_out_of_the_folder_is_no_scan(tmp_path):
  for name in ("good", "evil"):
    (tmp_path / f"{name}.nii.gz").write_bytes(b"")
  records = [Record(name, str(tmp_path / f"{name}.nii.gz"), "done", "m") for name in ("good", "evil")]
  lines = [json.dumps({"format": manifest.FORMAT}), *(each.line() for each in records)]
  (tmp_path / "manifest.jsonl").write_text("\n".join(lines).replace('"evil"', '"../../../evil"') + "\n")
  assert [scan.name for scan in scans_of(tmp_path)] == ["good"]
