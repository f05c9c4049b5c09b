"""Ideas, outcomes and calls for tests of the population room."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))  # its stub server speaks OpenAI's protocol
