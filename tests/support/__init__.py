"""What tests share: no test imports another, and none of these files holds a test."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
