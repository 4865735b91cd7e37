"""Loaded by every Python process of a test: makes the loading of some cutouts slow, hungry, deadly, endless or held.

In the folder `marks`, a file named by its process says when that process last began to load a cutout, and a file
"held N" that cutout N is being held until the file `until` is there.
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time

_SABOTAGE = json.loads(os.environ.get("VOORWERP_TEST_SABOTAGE", "{}"))
_TARGET = "engine.cluster.loading"


def mark(name):
    open(os.path.join(_SABOTAGE["marks"], name), "w").close()


class _Loader(importlib.abc.Loader):
    def __init__(self, inner):
        self._inner = inner

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        load = module.load

        def sabotaged(objects, row, *arguments):
            object_id = objects["object_id"][row].as_py()
            if "marks" in _SABOTAGE:
                mark(str(os.getpid()))
            while object_id in _SABOTAGE.get("held", []) and not os.path.exists(_SABOTAGE["until"]):
                mark(f"held {object_id}")
                time.sleep(0.05)
            time.sleep(_SABOTAGE.get("slow_s", 0))
            if object_id in _SABOTAGE.get("endless", []):
                time.sleep(1000)
            if object_id in _SABOTAGE.get("hungry", []):
                raise MemoryError
            if object_id in _SABOTAGE.get("deadly", []):
                os.kill(os.getpid(), signal.SIGKILL)
            return load(objects, row, *arguments)

        module.load = sabotaged


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != _TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = _Loader(spec.loader)
        return spec


if _SABOTAGE:
    sys.meta_path.insert(0, _Finder())
