"""The command line, a short file per command: the only place that prints, parses arguments or reads configs."""
