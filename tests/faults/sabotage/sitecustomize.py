"""Loaded by every Python process of a test: makes the loading of some cutouts slow, hungry, deadly, endless or held.

In the folder `marks`, a file named by its process says when that process last began to load a cutout, and a file
"held N" that cutout N is being held until the file `until` is there; "loaded NODE" and "encoded NODE" say which nodes
of a cluster did what. With `no_gpu`, encoders that are meant for GPUs run on CPUs.
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time

_SABOTAGE = json.loads(os.environ.get("VOORWERP_TEST_SABOTAGE", "{}"))


def mark(name):
    open(os.path.join(_SABOTAGE["marks"], name), "w").close()


def mark_node(what):
    import ray

    if ray.is_initialized():
        mark(f"{what} {ray.get_runtime_context().get_node_id()}")


def load_badly(module):
    load = module.load

    def sabotaged(objects, row, *arguments):
        object_id = objects["object_id"][row].as_py()
        if "marks" in _SABOTAGE:
            mark(str(os.getpid()))
            mark_node("loaded")
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


def encode_on_cpus(module):
    load_encoder = module.load_encoder

    def sabotaged(architecture, n_bands, tensors, side, device, *arguments):
        if device == "cuda" and _SABOTAGE.get("no_gpu"):
            mark_node("encoded")
            device = "cpu"
        return load_encoder(architecture, n_bands, tensors, side, device, *arguments)

    module.load_encoder = sabotaged


_TARGETS = {"engine.cluster.loading": load_badly, "engine.compute.encoder": encode_on_cpus}


class _Loader(importlib.abc.Loader):
    def __init__(self, inner, change):
        self._inner, self._change = inner, change

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module):
        self._inner.exec_module(module)
        self._change(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _TARGETS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = _Loader(spec.loader, _TARGETS[name])
        return spec


if _SABOTAGE:
    sys.meta_path.insert(0, _Finder())
