"""Capture against what it is measured by: speed (``python -m bench.capture``), memory and cold start (modules beside)."""
