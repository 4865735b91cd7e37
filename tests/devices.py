"""Devices that a test runs on: a GPU where there is one."""

import pytest
import torch

from tests.conftest import NEEDS_GPU

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=NEEDS_GPU)),
]
