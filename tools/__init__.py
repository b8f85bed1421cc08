"""Laboratory equipment: what shows that the library is right, and is no part of it."""
