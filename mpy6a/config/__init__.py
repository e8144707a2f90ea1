"""Configuration: pipe.yaml, routes.yaml and sidecar.yaml as checked, frozen settings.

`load_pipe` and `load_sidecar` either return settings that are complete, or raise one ConfigError that names
file, line, key, what was found and what is allowed, for everything that is wrong in all files at once.
Durations are int milliseconds, sizes bytes, paths absolute. Every key, its unit and its default stand in
configs/*.yaml.
"""

from mpy6a.config.addresses import HttpAddress
from mpy6a.config.check import check, find_pipe_config
from mpy6a.config.pipe import LogSettings, PipeSettings, load_pipe
from mpy6a.config.problems import ConfigProblems, Problem
from mpy6a.config.routes import (
    Attached,
    ExecHandler,
    HandlerSpec,
    HttpHandler,
    PythonHandler,
    Route,
    Routes,
    load_routes,
)
from mpy6a.config.sidecar import SidecarSettings, load_sidecar

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
