"""What `jax_bridges.paint` is made of: a desk that restores one picture at a time, and a page for it.

The page is one document without anything from elsewhere, served by the standard library: a framework
for demonstrations would bring dozens of packages, parts from other machines and a picture component that
makes 8-bit copies, where known pixels are to come back bit for bit. Whatever is done with pictures is
done by `restoring`.
"""

from jax_bridges.painting.desk import Desk
from jax_bridges.painting.server import Server, make_server

__all__ = ["Desk", "Server", "make_server"]
