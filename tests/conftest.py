"""What do the tests share?"""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's picture cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
