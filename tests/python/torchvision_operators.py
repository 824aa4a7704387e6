"""torchvision beside a torch without the operators that it was built for: for the tests and the benchmarks.

The torchvision that pip installs is built for torch's CUDA build. Beside a CPU build its own library does not load,
and the import fails for want of an operator that nothing here calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import torch


@cache  # so that the library lives as long as the process: what it declares goes with it
def declare_what_torchvision_lacks() -> torch.library.Library | None:
    """Declare the operators for want of which `import torchvision` fails, and only then.

    Where its own library loads, that declares them too, and a second declaration aborts the process. So a process of
    its own tries first.
    """
    tried = subprocess.run(
        [sys.executable, "-c", "import torchvision"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "operator torchvision::nms does not exist" not in tried.stderr:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
