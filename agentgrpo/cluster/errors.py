"""What goes wrong with processes, and not with a configuration."""


class ClusterError(RuntimeError):
    """A run that cannot go on because a process of it is gone; the message says which, and how to go on."""
