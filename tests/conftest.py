"""What do the tests share?"""

from __future__ import annotations

from pathlib import Path

import pytest
from trained import small_config

from ena24ssd.runs import Run
from ena24ssd.synthetic import write_dataset

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are covered by fixtures where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data beside the checkout (shared/data)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset: 48 pictures of 6 cameras."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, images=48, cameras=6, size=(160, 120), seed=3)
    return folder


@pytest.fixture(scope="session")
def trained_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small network that has learnt from the scenes. To be looked at, not to be written into."""
    pytest.importorskip("tensorboard", reason="no extra with an engine is installed")
    from ena24ssd.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return train(small_config(scenes), tmp_path_factory.mktemp("runs") / "small", quiet=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's picture cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
