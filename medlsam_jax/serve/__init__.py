"""The guarded local server, and the protocol that nnInteractive's viewers speak, answered by our networks."""
