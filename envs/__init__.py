"""Research environments: what an agent may change, how it is trained, and who scores it."""
