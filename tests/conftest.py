"""Offline, with jaxtyping's shapes checked by beartype in everything under vlm_probe."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

from jaxtyping import install_import_hook

install_import_hook("vlm_probe", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import LANGUAGES, REFERENCE, TOWERS, tiny_llava  # noqa: E402

# Two workers share two cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference():
    """The folder of recorded reference checkpoints."""
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference checkpoints at {REFERENCE}")
    return REFERENCE


@pytest.fixture(params=[f"{t}-{lm}" for t in TOWERS for lm in LANGUAGES])
def any_llava(request):
    """A tiny random LLaVA of every tower with every language model."""
    tower, language = request.param.split("-")
    return tiny_llava(tower, language)


@pytest.fixture(scope="session")
def replica():
    """The shipped default replica; tests leave no hook and no weight changed."""
    import vlm_probe

    return vlm_probe.load("replica/default", device="cpu")
