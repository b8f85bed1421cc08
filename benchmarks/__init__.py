"""Measurements that are kept, and the laboratory that makes them; not part of the wheel."""
