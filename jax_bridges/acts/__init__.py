"""What a run does after check, data and plan, each in a file of its own."""
