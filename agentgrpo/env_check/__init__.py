"""Does an environment keep the contract? ``python -m agentgrpo check-env ID``."""

from agentgrpo.env_check.command import Report, check_env, main, print_report
from agentgrpo.env_check.subject import Finding

__all__ = ["Finding", "Report", "check_env", "main", "print_report"]
