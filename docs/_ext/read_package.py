"""How autoapi reads the package: shapes in signatures as they are written, and no other package beside it.

It takes the quotes off `Float[Tensor, "row col"]`. And astroid beneath it follows every import, through all of torch:
half of the time that the site took.
"""

from __future__ import annotations

import sys
from typing import Any

import astroid
from astroid.exceptions import AstroidImportError
from astroid.manager import AstroidManager
from autoapi import _astroid_utils

_resolve = _astroid_utils._resolve_annotation
_SHORT = {"torch.Tensor": "Tensor", "numpy.ndarray": "ndarray"}


def _with_shape(annotation: astroid.nodes.NodeNG) -> str:
    if (
        isinstance(annotation, astroid.nodes.Subscript)
        and isinstance(annotation.slice, astroid.nodes.Tuple)
        and annotation.slice.elts  # tuple[()] has none
    ):
        kind = _resolve(annotation.value)
        array, *shape = annotation.slice.elts
        if kind.startswith("jaxtyping.") and len(shape) == 1 and isinstance(shape[0], astroid.nodes.Const):
            of = _resolve(array)
            return f'{kind.removeprefix("jaxtyping.")}[{_SHORT.get(of, of)}, "{str(shape[0].value).strip()}"]'
    return _resolve(annotation)


_import = AstroidManager.ast_from_module_name


def _own_alone(self: AstroidManager, modname: str | None, *args: Any, **kwargs: Any) -> Any:
    if not modname or (top := modname.partition(".")[0]) == "vlm_probe" or top in sys.stdlib_module_names:
        return _import(self, modname, *args, **kwargs)
    raise AstroidImportError(f"{modname} is not read", modname=modname)


def setup(app: Any) -> dict[str, Any]:
    # Annotations are resolved by one function that calls itself by this name.
    _astroid_utils._resolve_annotation = _with_shape
    AstroidManager.ast_from_module_name = _own_alone
    return {"parallel_read_safe": True}
