"""What must be true before an exported graph can be built, or used?

The package ``onnx`` must be installed; and to run graphs ONNX Runtime or OpenVINO, which `ena24ssd.onnx.engine` looks
for.
"""

from __future__ import annotations

from ena24ssd.engine import EngineError

INSTALL = "pip install 'ena24ssd[onnx]'"

try:
    import onnx  # noqa: F401
except ImportError as fault:
    said = " ".join(str(fault).split())
    raise EngineError(f"ONNX files need the package onnx, which does not load ({said}). {INSTALL}") from fault
