"""Owns which configurations of an `@triton.autotune` kernel a device tries; must not know ranks, tests or the box.

One whose kernel needs more shared memory than a block may have is dropped before anything is launched. A kernel says
what it needs once it is compiled; triton keeps it compiled, so that the benchmark doesn't compile again. Nothing is
imported for this: triton is patched when the user's code imports it.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, TypeAlias

AUTOTUNER = "triton.runtime.autotuner"

Need: TypeAlias = tuple[Any, int | None]
"""A configuration, and the shared memory of a block in bytes; None where it can't be learnt."""


class Staging:
    """Drops configurations of autotuned kernels that don't fit into the device's shared memory. `tell` gets the
    kernel's name, what was dropped, the limit in bytes, and whether all was kept because none fits; `failed` gets what
    kept this from working.
    """

    def __init__(
        self,
        tell: Callable[[str, tuple[str, ...], int, bool], None],
        failed: Callable[[Exception], None],
        limit_bytes: Callable[[], int],
    ) -> None:
        self._tell = tell
        self._failed = failed
        self._limit_bytes = limit_bytes

    def install(self, module: Any) -> None:
        """Patches `module`, the one of triton that has the class of autotuned kernels."""
        try:
            module.Autotuner.prune_configs = self._fitting(module.Autotuner.prune_configs)
        except Exception as e:
            self._failed(e)

    def _fitting(self, prune: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        @functools.wraps(prune)
        def pruned(autotuner: Any, kwargs: dict[str, Any]) -> Any:
            configs = list(prune(autotuner, kwargs))
            try:
                return self._choose(autotuner, configs, kwargs)
            except Exception as e:
                self._failed(e)
                return configs

        return pruned

    def _choose(self, autotuner: Any, configs: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        if len(configs) < 2:  # nothing to choose from
            return configs
        limit_bytes = self._limit_bytes()
        kept, dropped = fitting(((c, shared_bytes(autotuner, c, kwargs)) for c in configs), limit_bytes)
        if dropped:
            self._tell(autotuner.base_fn.__name__, dropped, limit_bytes, not kept)
        return kept or configs


def fitting(needs: Iterable[Need], limit_bytes: int) -> tuple[list[Any], tuple[str, ...]]:
    """Returns the configurations that fit, or whose need isn't known, and as texts those that don't."""
    known = list(needs)
    too_large = [(config, need) for config, need in known if need is not None and need > limit_bytes]
    kept = [config for config, need in known if need is None or need <= limit_bytes]
    return kept, tuple(f"{_text(config)}: {need} bytes" for config, need in too_large)


def _text(config: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.all_kwargs().items())


def shared_bytes(autotuner: Any, config: Any, kwargs: dict[str, Any]) -> int | None:
    """Returns the bytes that a block of the kernel needs, compiled for this configuration and these arguments. Its
    `pre_hook` is called as before each launch: it may decide shapes that are compiled in.
    """
    try:
        if config.pre_hook is not None:
            config.pre_hook({**autotuner.nargs, **kwargs, **config.all_kwargs()})
        kernel = autotuner.fn.run(**autotuner.nargs, **{**kwargs, "warmup": True}, **config.all_kwargs())
        return int(kernel.metadata.shared)
    except Exception:  # triton will meet the same, and has words for it
        return None


def when_imported(name: str, action: Callable[[Any], None]) -> None:
    """Calls `action` with the module once it is imported; at once where it is already."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Awaited(name, action))


class _Awaited:
    """An import finder that waits for one module and finds it once."""

    def __init__(self, name: str, action: Callable[[Any], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            loader.exec_module = self._then_act(loader.exec_module)
        return spec

    def _then_act(self, execute: Callable[[Any], None]) -> Callable[[Any], None]:
        def executed(module: Any) -> None:
            execute(module)
            self._action(module)

        return executed
