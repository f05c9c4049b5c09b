"""Where untrusted code runs: one protocol, several back ends."""
