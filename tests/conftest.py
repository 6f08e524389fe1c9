"""Fixtures that all rooms share."""

import os
from pathlib import Path

import pytest
import torch

import musicrec_kit  # noqa: F401  (installs the torchvision import hook before anything imports torchvision)

torch.set_num_threads(1)  # sums in another order make other weights: what tests say of them is said of one thread


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data sets, or skip: the project's tests must pass without it."""
    folder = Path(os.environ.get("MUSICREC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}; set MUSICREC_TEST_DATA to their folder")
    return folder
