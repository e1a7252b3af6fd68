"""The onnx package, which is an extra: imported where it is used, and named where it is missing."""

from types import ModuleType

from gatewise.errors import InputError


def library() -> ModuleType:
    """Return the onnx package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX files need {error.name}: pip install 'gatewise[onnx]'") from error
    return onnx
