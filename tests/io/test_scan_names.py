import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io.scan_names import names_of, scan_name


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("a/case_003_ct.nii.gz", "case_003"),
    ("case_003_CT.NII", "case_003_CT"),
    ("x.y_ct.nii", "x.y"),
    ("scan.nii.gz", "scan"),
    ("folder/patient.7", "patient.7"),
    ("direct", "direct"),
    ("case_00001/imaging.nii.gz", "case_00001"),
    ("s0001/ct.nii.gz", "s0001"),
    ("p3/study/CT", "p3"),
    ("p3/1.2.840.113619.2.55", "p3"),
    ("./ct.nii.gz", "ct"),
    ("what:is*this?_ct.nii", "what_is_this_"),
  ],
)
def test_name_of_a_scan(path, name):
  assert scan_name(path) == name


@pytest.mark.parametrize(
  ("paths", "names"),
  [
    (["c0/imaging.nii.gz", "c1/imaging.nii.gz"], ["c0", "c1"]),
    (["a/x_ct.nii", "b/x_ct.nii", "b/y_ct.nii"], ["a_x", "b_x", "y"]),
    (["p1/2020/CT", "p2/2020/CT", "p1/2021/CT"], ["p1_2020", "p2_2020", "2021"]),
    (["a/CT/x.nii", "b/CT/x.nii"], ["a_x", "b_x"]),
    (["case/ct.nii.gz", "case/image.nii.gz"], ["case_ct", "case_image"]),
    (["p7/1.2.840.1/1.2.3.4", "p7/1.2.840.1/1.2.3.5", "p8/1.2.840.2/1.2.3.6"], ["p7_1.2.3.4", "p7_1.2.3.5", "p8"]),
    (["P0/ST0/SE0", "P1/ST0/SE0", "P1/ST1/SE0"], ["P0_ST0_SE0", "P1_ST0_SE0", "P1_ST1_SE0"]),
    (["a/X.nii", "b/x.nii"], ["a_X", "b_x"]),
    (["x_ct.nii", "x.nii.gz"], ["x_ct", "x"]),
    (["d/b/x.nii", "d/c/x.nii", "d/b_x.nii"], ["d_b_x", "d_c_x", "b_x"]),
  ],
)
def test_names_are_the_shortest_that_tell_scans_apart(paths, names, tmp_path):
  assert names_of([tmp_path / path for path in paths]) == names
  assert names_of([tmp_path / path for path in reversed(paths)]) == names[::-1]


def test_scans_that_no_name_tells_apart_are_refused():
  with pytest.raises(InputError, match=r"a/x.nii and a/x.nii.gz would both be called x; rename one"):
    names_of(["a/x.nii", "a/x.nii.gz"])
