"""The acts of a run: train, distill, evaluate; plain loops, top to bottom."""
