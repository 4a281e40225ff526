"""Training against what it is measured by: speed (``python -m bench.train``), the origin's protocol, whole jobs."""
