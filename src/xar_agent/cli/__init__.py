"""The command line: verbs, what a person sees, and exit codes."""
