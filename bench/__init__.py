"""Side-by-side measurements: ours against torch, ONNX Runtime and JAX. Run with ``python -m bench --help``."""
