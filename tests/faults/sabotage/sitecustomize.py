"""Loaded by every Python process of a test: makes the loading of some cutouts slow, hungry, deadly or endless."""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time

_SABOTAGE = json.loads(os.environ.get("VOORWERP_TEST_SABOTAGE", "{}"))
_TARGET = "engine.cluster.loading"


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
