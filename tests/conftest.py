"""Fixtures that all tests share."""

import os

# Tests, loaders and BLAS threads share few cores: waiting threads must not spin. Set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
