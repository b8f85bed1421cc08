"""What benchmarks/gpu.sh does: rows, each in a process that can be cut, and the file of their results."""


class LeftOut(Exception):
    """What a row needs is not here; its words are a sentence that says what to do."""
