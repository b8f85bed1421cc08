"""Players, steps and how they are spread over devices: flax and optax live here and above."""
