"""What the agent may do."""
