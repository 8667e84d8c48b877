"""``python -m agentgrpo``."""

import sys

from agentgrpo.cli import main

sys.exit(main())
