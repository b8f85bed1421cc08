"""Before any test's imports."""

import pytest

from jax_bridges.starting import one_blas_thread

one_blas_thread()
pytest.register_assert_rewrite("tests.support")
