"""Tasks: each one estimator with its windows, head, loss, metrics and decoding. Tasks never import each other."""
