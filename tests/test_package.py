"""Does the house stand as drawn: a lazy public face, no framework on the ground floor?"""

from __future__ import annotations

import subprocess
import sys

import pytest

import ena24ssd

FRAMEWORKS = ("mxnet", "mxboard", "gluoncv", "d2l", "torch", "tensorboard")
HEAVY = ("matplotlib", "pandas", "scipy", "imagehash", "requests", "jinja2")


def loaded_by(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after running ``code``."""
    report = f"{code}\nimport sys; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True)
    return set(answer.stdout.split())


def test_importing_the_package_costs_nothing():
    loaded = loaded_by("import ena24ssd")
    assert not loaded & {*FRAMEWORKS, "numpy", "PIL", "pydantic"}


def test_the_public_names_need_no_framework():
    names = ", ".join(f"ena24ssd.{name}" for name in ena24ssd.__all__)
    assert not loaded_by(f"import ena24ssd; {names}") & set(FRAMEWORKS)


def test_the_command_waits_for_nothing_that_its_verb_does_not_need():
    assert not loaded_by("import ena24ssd.cli") & {*FRAMEWORKS, *HEAVY}


@pytest.mark.parametrize("name", ena24ssd.__all__)
def test_every_public_name_is_there_and_explained(name):
    assert getattr(ena24ssd, name).__doc__ and name in dir(ena24ssd)


def test_the_verb_train_is_not_shadowed_by_a_module():
    import ena24ssd.training

    assert callable(ena24ssd.train)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="Detector"):
        _ = ena24ssd.Trainer
