import pytest
import torch

# The tests are small: a second thread wins nothing, and waits in a spin wherever another process has its core.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
