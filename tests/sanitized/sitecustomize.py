"""First on PYTHONPATH in `make sanitize`: the core comes from the folder GATEWISE_SANITIZED, in child processes too.

The package stays where it is; the installed core is left alone.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path


class _Sanitized(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != "gatewise._native":
            return None
        return spec_from_file_location(
            fullname, Path(os.environ["GATEWISE_SANITIZED"], "_native" + EXTENSION_SUFFIXES[0])
        )


sys.meta_path.insert(0, _Sanitized())
