"""Put the packages of this clone on the path, for programs that are started from a clone that is not installed."""

import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]
