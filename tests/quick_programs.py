"""Programs left as XLA first makes them, for tests of what takes far less time than compiling."""

QUICK = {"xla_backend_optimization_level": 0}
