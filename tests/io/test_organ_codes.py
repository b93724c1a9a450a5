"""Organs have the codes that DICOM knows them by, and their side."""

import json
from importlib.resources import files

import pytest

from medlsam_jax.io.organ_codes import ALTERED, ANY, LEFT, RIGHT, code_of
from medlsam_jax.phantom.subject import LABEL_VALUES


def test_every_organ_of_the_package_has_a_code():
  names = set(LABEL_VALUES)
  for bank in ("torso", "headneck", "demo"):
    names |= set(json.loads((files("medlsam_jax") / "banks" / bank / "labels.json").read_text()))
  assert not [name for name in names if code_of(name).type == ANY]


@pytest.mark.parametrize(
  ("name", "code", "side"),
  [
    ("kidney_left", "64033007", LEFT),
    ("Right Kidney", "64033007", RIGHT),
    ("parotid-gland_L", "45289007", LEFT),
    ("rib_left_12", "43993008", LEFT),
    ("liver", "10200004", None),
    ("lung_middle_lobe_right", "72481006", None),  # whose code says the side
    ("heart_atrium_left", "82471001", None),
    ("vertebrae_L1", "66794005", None),  # an L that is no side
    ("gluteus_minimus_right", "75297007", RIGHT),
    ("something_left", ANY.value, LEFT),
    ("left_and_right", ANY.value, None),
    ("Parotid_L", "45289007", LEFT),
    ("parotid_left", "45289007", LEFT),
    ("LeftParotid", "45289007", LEFT),
    ("RtParotid", "45289007", RIGHT),
    ("PAROTID_R", "45289007", RIGHT),
    ("KidneyL", "64033007", LEFT),
    ("rkidney", "64033007", RIGHT),
    ("kidneyleft", "64033007", LEFT),
    ("SpinalCord", "2748008", None),
    ("spinalcord", "2748008", None),
    ("Glnd_Submand_L", "54019009", LEFT),
    ("Glnd_Thyroid", "69748006", None),
    ("OpticNrv_L", "18234004", LEFT),
    ("OpticChiasm", "244453006", None),
    ("BrainStem", "119238007", None),
    ("Bladder", "89837001", None),
    ("Cavity_Oral", "74262004", None),
    ("Bone_Mandible", "91609006", None),
    ("Femur_Head_R", "2812003", RIGHT),
    ("Lobe_Temporal_L", "78277001", LEFT),
    ("Lens_L", "78076003", LEFT),
    ("Atrium_L", "82471001", None),
    ("V_Venacava_I", "64131007", None),
    ("A_Aorta", "15825003", None),
    ("CtvLnR", ANY.value, RIGHT),
    ("SpinalCord_PRV05", ANY.value, None),  # a margin around it is not it
    ("Parotid_L_PRV", ANY.value, LEFT),
    ("LiveR", ANY.value, RIGHT),
    ("vessel", ANY.value, None),  # words that merely begin or end so
    ("roi_colour", ANY.value, None),
    ("Ring", ANY.value, None),
    ("larynx", "4596009", None),
    ("rectum", "34402009", None),
    ("lung", "39607008", None),
    ("GTVp", ANY.value, None),
    ("", ANY.value, None),
  ],
)
def test_code_and_side(name, code, side):
  found = code_of(name)
  assert (found.type.value, found.side) == (code, side)


def test_a_cyst_is_in_an_organ_of_a_side():
  found = code_of("kidney_cyst_right")
  assert found.category == ALTERED and found.region is not None
  assert (found.type.value, found.region.value, found.side) == ("367643001", "64033007", RIGHT)
