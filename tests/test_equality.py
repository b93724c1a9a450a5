"""`==` of what holds arrays: numpy's answer has no truth value, so the classes must say what they mean by it."""

import dataclasses
import importlib
import inspect
import pkgutil

import medlsam_jax


def array_holders():
  """Data classes with array fields that leave `==` to the comparison of their fields."""
  for found in pkgutil.walk_packages(medlsam_jax.__path__, "medlsam_jax."):
    module = importlib.import_module(found.name)
    for name, each in vars(module).items():
      if not (inspect.isclass(each) and each.__module__ == found.name and dataclasses.is_dataclass(each)):
        continue
      params = each.__dataclass_params__
      fields = [f for f in dataclasses.fields(each) if f.compare and "Callable" not in str(f.type)]
      arrays = [f.name for f in fields if "np.ndarray" in str(f.type)]
      if arrays and params.eq:
        yield f"{found.name}.{name}: {', '.join(arrays)}"


def test_no_data_class_compares_arrays_field_by_field():
  assert list(array_holders()) == []
