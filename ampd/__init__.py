"""ampd: a local-first peer daemon with a durable mailbox for AI agents."""

__version__ = "0.1.0"
