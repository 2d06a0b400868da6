"""What must be true before PyTorch can be used?

It must be installed. What it computes as float32 is float32: by default PyTorch lets cuDNN round to 10 bits of fraction
(TF32) in convolutions. Who wants speed says so (``precision: bfloat16``).
"""

from __future__ import annotations

from ena24ssd.engine import EngineError

INSTALL = "Install it in the checkout: pip install '.[pytorch]'"

try:
    import torch
except ModuleNotFoundError as fault:
    raise EngineError(f"engine 'pytorch' needs the package {fault.name}, which is not installed. {INSTALL}") from fault
except (ImportError, OSError) as fault:
    said = " ".join(str(fault).split())
    raise EngineError(f"PyTorch does not load: {said}. {INSTALL} in a fresh environment") from fault

torch.backends.cudnn.allow_tf32 = False
