"""Configuration: pipe.yaml, routes.yaml and sidecar.yaml as checked, frozen settings.

`load_pipe` and `load_sidecar` either return settings that are complete, or raise one ConfigError that names
file, line, key, what was found and what is allowed, for everything that is wrong in all files at once.
Durations are int milliseconds, sizes bytes, paths absolute. Every key, its unit and its default stand in
configs/*.yaml.

Names are imported when they are first used: a pipe loads nothing of a sidecar's configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mpy6a.config.addresses import HttpAddress as HttpAddress
    from mpy6a.config.checking import check as check
    from mpy6a.config.find import find_pipe_config as find_pipe_config
    from mpy6a.config.pipe import LogSettings as LogSettings
    from mpy6a.config.pipe import PipeSettings as PipeSettings
    from mpy6a.config.pipe import load_pipe as load_pipe
    from mpy6a.config.problems import ConfigProblems as ConfigProblems
    from mpy6a.config.problems import Problem as Problem
    from mpy6a.config.routes import Attached as Attached
    from mpy6a.config.routes import ExecHandler as ExecHandler
    from mpy6a.config.routes import HandlerSpec as HandlerSpec
    from mpy6a.config.routes import HttpHandler as HttpHandler
    from mpy6a.config.routes import PythonHandler as PythonHandler
    from mpy6a.config.routes import Route as Route
    from mpy6a.config.routes import Routes as Routes
    from mpy6a.config.routes import load_routes as load_routes
    from mpy6a.config.sidecar import SidecarSettings as SidecarSettings
    from mpy6a.config.sidecar import load_sidecar as load_sidecar
else:  # a checker that sees it takes every name for granted
    # Where each public name lives.
    _HOME: Final[dict[str, str]] = {
        "HttpAddress": "addresses",
        "check": "checking",
        "find_pipe_config": "find",
        **dict.fromkeys(("LogSettings", "PipeSettings", "load_pipe"), "pipe"),
        **dict.fromkeys(("ConfigProblems", "Problem"), "problems"),
        **dict.fromkeys(("Attached", "ExecHandler", "HandlerSpec", "HttpHandler", "PythonHandler"), "routes"),
        **dict.fromkeys(("Route", "Routes", "load_routes"), "routes"),
        **dict.fromkeys(("SidecarSettings", "load_sidecar"), "sidecar"),
    }

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value


__all__ = [
    "Attached",
    "ConfigProblems",
    "ExecHandler",
    "HandlerSpec",
    "HttpAddress",
    "HttpHandler",
    "LogSettings",
    "PipeSettings",
    "Problem",
    "PythonHandler",
    "Route",
    "Routes",
    "SidecarSettings",
    "check",
    "find_pipe_config",
    "load_pipe",
    "load_routes",
    "load_sidecar",
]
