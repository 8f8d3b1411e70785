"""One place that imports torchvision, because it may have been built for another torch than the one installed."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


@functools.cache
def torchvision() -> ModuleType:
    """Return torchvision with its `models` and `transforms`, on any build of torch.

    A torchvision built for CUDA beside a CPU torch cannot load its C++ operators and then fails on import, although
    no classification model needs them. In that case the two operators it looks up while being imported are declared,
    without an implementation, and the import is repeated.
    """
    try:
        import torchvision  # noqa: PLC0415
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_missing_operators()
        import torchvision  # noqa: PLC0415
    return torchvision  # type: ignore[no-any-return]


def _declare_missing_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _NMS)  # type: ignore[no-untyped-call]
    _declared.append(library)  # an unreferenced Library takes its declarations with it
