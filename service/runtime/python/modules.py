"""Importing model.py: under a name of its own for each load, from its directory and nowhere else.

The module is a package whose only path is the version directory, so `from . import tokens` finds
tokens.py beside it. Nothing is put on sys.path, and nothing is written beside the files: what is
published stays as it is.
"""

import importlib.util
import itertools
import sys
from collections.abc import Callable, Collection, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final

from service.errors import LoadError

_PREFIX: Final = "penstock_model_"
_TRITON_MODULE: Final = "triton_python_backend_utils"
_OF_TRITON: Final = (
    "models of Triton's Python backend have another interface; here it is a class Model with "
    "infer(self, request), see docs/python-backend.md"
)
_counter: Final = itertools.count(1)


class ModelModule:
    """model.py of one version, imported. Close it when no instance is left."""

    def __init__(
        self, file: Path, model: str, version: str, listed: Collection[str] | None = None
    ) -> None:
        """Import the file. listed: the files that may be imported; None: all that are there.

        Raises LoadError saying what is wrong with the file, with the line if it is in it.
        """
        readable = "".join(c if c.isalnum() else "_" for c in f"{model}_{version}")
        self._name = f"{_PREFIX}{readable}_{next(_counter)}"
        self._finder = _Finder(self._name, listed)
        self._file = file
        if not file.is_file():
            raise LoadError(f"{file}: no such file; a model of backend 'python' is made by it")
        sys.meta_path.insert(0, self._finder)  # before the one that writes compiled files
        try:
            self._class = self._import()
        except BaseException:
            self.close()
            raise

    @property
    def model_class(self) -> Callable[..., Any]:
        """Return the class Model."""
        return self._class

    def close(self) -> None:
        """Forget the module and what it imported beside it; instances keep what they need."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for name in [name for name in sys.modules if _is_below(name, self._name)]:
            sys.modules.pop(name, None)

    def _import(self) -> Callable[..., Any]:
        spec = self._finder.spec(self._name, self._file, is_package=True)
        if spec is None or spec.loader is None:
            raise LoadError(f"{self._file}: not listed in the manifest, so it is not run")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self._name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            text = described(error, self._file.parent)
            if isinstance(error, ModuleNotFoundError) and error.name == _TRITON_MODULE:
                text += f": {_OF_TRITON}"
            raise LoadError(f"{self._file}: {text}") from error
        return self._class_of(module)

    def _class_of(self, module: ModuleType) -> Callable[..., Any]:
        found = getattr(module, "Model", None)
        if not isinstance(found, type):
            of_triton = f": {_OF_TRITON}" if hasattr(module, "TritonPythonModel") else ""
            raise LoadError(f"{self._file}: has no class Model{of_triton}")
        if not callable(getattr(found, "infer", None)):
            raise LoadError(f"{self._file}: its class Model has no method infer(self, request)")
        return found


def described(error: BaseException, directory: Path) -> str:
    """Return an exception for operators: its type and text, and the last line in the directory."""
    text = f"{type(error).__name__}: {error}"
    place = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(directory):
            place = f" ({path.relative_to(directory)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return text + place


class _Finder(MetaPathFinder):
    """Finds modules beside one model.py."""

    def __init__(self, root: str, listed: Collection[str] | None) -> None:
        self._root = root
        self._listed = listed
        self._directory = Path()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module of ours, in a directory of ours. Nobody else is asked for it."""
        del target
        if path is None or not fullname.startswith(self._root + "."):
            return None
        tail = fullname.rpartition(".")[2]
        for directory in path:
            package = Path(directory, tail, "__init__.py")
            file = package if package.is_file() else Path(directory, tail + ".py")
            if file.is_file() and (spec := self.spec(fullname, file, is_package=file is package)):
                return spec
        raise ModuleNotFoundError(f"No module named '{tail}' beside model.py", name=fullname)

    def spec(self, name: str, file: Path, *, is_package: bool) -> ModuleSpec | None:
        """Return how a file is imported; None if it is not listed."""
        if name == self._root:
            self._directory = file.parent
        if self._listed is not None and str(file.relative_to(self._directory)) not in self._listed:
            return None
        return importlib.util.spec_from_file_location(
            name,
            file,
            loader=_Loader(file),
            submodule_search_locations=[str(file.parent)] if is_package else None,
        )


class _Loader(SourceLoader):
    """Reads source; neither reads nor writes compiled files."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get_filename(self, fullname: str) -> str:
        """Return the path of a module."""
        del fullname
        return str(self._file)

    def get_data(self, path: str | bytes) -> bytes:
        """Return the contents of the file."""
        if Path(str(path)) != self._file:
            raise OSError  # a compiled file, which is as if it were not there
        return self._file.read_bytes()


def _is_below(name: str, root: str) -> bool:
    return name == root or name.startswith(root + ".")
