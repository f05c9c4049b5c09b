"""xar-agent: from a research idea in plain language to a measured result."""

__version__ = "0.1.0"
