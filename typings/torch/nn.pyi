# PyTorch is optional and its own types need it installed: here anything of it is anything.
from typing import Any

def __getattr__(name: str) -> Any: ...
