"""The training engine, blind to networks: loop, state, checkpoints, mesh, records, loading."""
