"""Read the residual stream: ``strataprobe.capture(texts, model=...)`` in memory, ``capture.run`` for the stage on disk.

The package and its function share one name, so the package itself can be called.
"""

import sys
from types import ModuleType

from strataprobe.capture.memory import capture


class _CallablePackage(ModuleType):
    __call__ = staticmethod(capture)


sys.modules[__name__].__class__ = _CallablePackage
