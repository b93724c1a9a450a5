import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io import label_files


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


@pytest.mark.parametrize(
  ("scan", "labels"),
  [
    ("a_ct.nii.gz", "a_seg.nii.gz"),
    ("a_ct.nii.gz", "a_ct_label.nii"),
    ("a.nii.gz", "a_segmentation.nii.gz"),
    ("case_0/imaging.nii.gz", "case_0/segmentation.nii.gz"),
    ("case_0/ct.nii.gz", "case_0/case_0_seg.nii.gz"),
    ("case_0/ct.nii.gz", "case_0/labels.nii.gz"),
    ("volume-12.nii", "segmentation-12.nii"),
    ("a_ct.NII.GZ", "a_seg.NII.GZ"),
    ("a_ct.nii.gz", "a_seg.NII"),
  ],
)
def test_label_map_beside_a_scan(tmp_path, scan, labels):
  touch(tmp_path, scan, "other_seg.nii.gz")
  assert label_files.label_map_beside(tmp_path / scan) is None
  touch(tmp_path, labels)
  assert label_files.label_map_beside(tmp_path / scan) == tmp_path / labels
  assert label_files.is_label_map(labels.rpartition("/")[2]) and not label_files.is_label_map(scan.rpartition("/")[2])


@pytest.mark.parametrize("labels", ["q7_seg.nii.gz", "q7/segmentation.nii.gz", "q7/q7_label.nii.gz", "q7.nii.gz"])
def test_truth_of_a_scan_in_another_folder(tmp_path, labels):
  touch(tmp_path, "imagesTr/q7_ct.nii.gz", f"truth/{labels}")
  found = label_files.label_map_for(tmp_path / "imagesTr" / "q7_ct.nii.gz", "q7", tmp_path / "truth")
  assert found == tmp_path / "truth" / labels


def test_scan_is_not_its_own_truth(tmp_path):
  touch(tmp_path, "q7.nii.gz")
  assert label_files.label_map_for(tmp_path / "q7.nii.gz", "q7", tmp_path) is None


def test_label_maps_of_a_folder_by_the_names_of_their_scans(tmp_path):
  touch(tmp_path, "kits/case_0/imaging.nii.gz", "kits/case_0/aggregated_AND_seg.nii.gz")
  touch(
    tmp_path, "kits/case_0/segmentation.nii.gz", "kits/case_1/segmentation.nii.gz", "own/b_seg.nii.gz", "own/c.json"
  )
  cases = {f"case_{n}": tmp_path / "kits" / f"case_{n}" / "segmentation.nii.gz" for n in (0, 1)}
  assert label_files.label_maps_in(tmp_path / "kits") == cases
  assert label_files.label_maps_in(tmp_path / "own") == {"b": tmp_path / "own" / "b_seg.nii.gz"}
  touch(tmp_path, "own/b_label.nii.gz")
  with pytest.raises(InputError, match="two label maps of b"):
    label_files.label_maps_in(tmp_path / "own")
