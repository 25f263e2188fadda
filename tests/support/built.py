"""What a test needs of the package's build."""

from __future__ import annotations

import pytest

from asr_training.kernels import kernels

needs_kernels = pytest.mark.skipif(kernels() is None, reason="the package was built without the kernels")
