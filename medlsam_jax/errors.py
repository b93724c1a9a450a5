"""The few exceptions that a user sees. Each message names the file, the organ where there is one, and what to do."""


class MedlsamError(Exception):
  """Base of every error that a user can mend; the command line prints it without a traceback."""


class InputError(MedlsamError):
  """A scan, label map, points file or box file cannot be used."""


class TemplateError(MedlsamError):
  """Templates or a bank cannot be used: an organ is in no template, the bank belongs to another network."""


class WeightsError(MedlsamError):
  """A checkpoint is missing, truncated, of another kind, unsafe, or does not fill the network exactly."""


class OutputError(MedlsamError):
  """A result cannot be written."""


class DeviceError(MedlsamError):
  """The device cannot do the work: its memory is full, however little it is given at once."""


class ConfigError(MedlsamError):
  """A setting is unknown, of the wrong type or out of range."""


class TimeLimitError(MedlsamError):
  """Work on a scan took longer than it may, and ended itself."""


class HungError(MedlsamError):
  """Work on a scan does not end and cannot be ended: the program has to be."""
