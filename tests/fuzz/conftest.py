"""The fuzzers' modules lie beside their tests and are imported by name, by pytest and by `python tests/fuzz/fuzz.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
