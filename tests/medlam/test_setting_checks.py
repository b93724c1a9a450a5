"""Settings of pre-training that cannot go together: refused by name, before a scan is read or a folder made."""

import math

import pytest
import small_run

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining import recipe
from medlsam_jax.medlam.pretraining.setting_checks import check_pretraining
from medlsam_jax.sam.finetuning.setting_checks import check_finetuning

FIELDS = [
  ({"optimizer": {"total_steps": 50, "warmup_steps": 60}}, r"optimizer.warmup_steps 60 .*optimizer.total_steps 50"),
  ({"optimizer": {"total_steps": 60, "warmup_steps": 60, "decay": "cosine"}}, r"warmup_steps 60 .*total_steps 60"),
  ({"optimizer": {"total_steps": 0}}, "optimizer.total_steps 0"),
  ({"optimizer": {"warmup_steps": -1}}, "optimizer.warmup_steps -1"),
  ({"optimizer": {"learning_rate": math.nan}}, "optimizer.learning_rate nan"),
  ({"optimizer": {"ema_decay": 1.0}}, "optimizer.ema_decay 1"),
  ({"optimizer": {"accumulate": 3}}, r"data.scans_per_step 8 .*multiple of 3.*optimizer.accumulate"),
  ({"optimizer": {"accumulate": 0}}, "optimizer.accumulate 0"),
  ({"optimizer": {"stair_steps": 0}}, "optimizer.stair_steps 0"),
  ({"mesh": {"data": 7}}, "mesh.data 7"),
  ({"mesh": {"model": 0}}, "mesh.model 0"),
  ({"data": {"crops_per_scan": 3}}, r"data.crops_per_scan 3 .*data.scans_per_step 8"),
  ({"data": {"dense_patches": 3}}, r"data.dense_patches 3 .*data.patches_per_scan 2"),
  ({"data": {"dense_patches": 0}}, "data.dense_patches 0"),
  ({"data": {"scans_per_step": 0}}, "data.scans_per_step 0"),
  ({"data": {"scans": ["a", "b"], "scan_weights": [0.0, 0.0]}}, r"data.scan_weights \[0.0, 0.0\]"),
  ({"data": {"scans": ["a", "b"], "scan_weights": [1.0, -1.0]}}, r"data.scan_weights \[1.0, -1.0\]"),
  ({"data": {"scans": ["a"], "scan_weights": [math.inf]}}, "data.scan_weights"),
  ({"data": {"scan_weights": [1.0]}}, "data.scan_weights is given without data.scans"),
  ({"data": {"index": ["a"], "index_weights": [0.0]}}, "data.index_weights"),
  ({"network": {"patch_edge": 40}}, "network.patch_edge 40"),
  ({"network": {"feature_scales": [4, 3]}}, r"network.feature_scales \[4, 3\]"),
  ({"network": {"template_edge": 12}}, "network.template_edge 12: .*stride 4"),
  ({"network": {"template_edge": 64}}, "at most network.patch_edge 16"),
  ({"network": {"dropout": 1.0}}, "network.dropout 1"),
  ({"network": {"base_channels": 0}}, "network.base_channels 0"),
  ({"augment": {"elastic_probability": 1.5}}, "augment.elastic_probability 1.5"),
  ({"augment": {"control_points": 3}}, "augment.control_points 3"),
  ({"augment": {"control_points": 6, "locked_layers": 3}}, "augment.locked_layers 3"),
  ({"checkpoint": {"every_steps": 0}}, "checkpoint.every_steps 0"),
  ({"checkpoint": {"keep_last": 0}}, "checkpoint.keep_last 0"),
  ({"checkpoint": {"best_metric": "validation_dice"}}, "best_metric 'validation_dice' is not measured"),
  ({"checkpoint": {"best_metric": "probe_box_iou"}}, "probe_every_steps"),
  ({"log_every_steps": 0}, "log_every_steps 0"),
  ({"validate_every_steps": 0}, "validate_every_steps 0"),
  ({"probe_every_steps": -1}, "probe_every_steps -1"),
  ({"probe": {"templates": "a"}}, "probe.templates and probe.queries"),
  ({"probe": {"count": -1}}, "probe.count -1"),
  ({"objectives": {"vicreg": {"width": 8, "stride": 2}}}, r"objectives.vicreg.stride is 2.*feature_scales"),
  ({"objectives": {"masked_volume": {"cell": 5}}}, r"masked_volume.cell 5 .*patch_edge 16"),
  ({"objectives": {"uam": {"weight": -1.0}}}, "objectives.uam.weight -1"),
  ({"objectives": {"uam": {}, "mss": {}}, "network": {"feature_scales": []}}, "mss.*feature_scales"),
]


@pytest.mark.parametrize(("fields", "words"), FIELDS, ids=[words for _, words in FIELDS])
def test_fields_are_named_before_a_scan_is_read(tmp_path, monkeypatch, fields, words):
  small_run.replace_network_and_scans(monkeypatch.setattr)
  monkeypatch.setattr(recipe, "data_sets", lambda *_: pytest.fail("scans were read"))
  with pytest.raises(ConfigError, match=words):
    recipe.run(small_run.settings(**fields), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["", "open", "tiny", "smoke"])
def test_our_own_configs_pass(mode):
  from medlsam_jax.cli.settings import resolve
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings

  check_pretraining(resolve(PretrainSettings(), f"configs/medlam.py:{mode}", []))


@pytest.mark.parametrize("mode", ["decoder", "medsam", "lora", "distill", "prompted", "smoke"])
def test_our_own_fine_tuning_configs_pass(mode):
  from medlsam_jax.cli.settings import resolve
  from medlsam_jax.sam.finetuning.settings import FinetuneSettings

  check_finetuning(resolve(FinetuneSettings(), f"configs/finetune.py:{mode}", []))
