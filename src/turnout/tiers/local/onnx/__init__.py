"""Embeddings on onnxruntime, without torch. engine.py is the daemon's side, worker.py the process.

Reads: what turnout.tiers.local reads.  Start with spec.py.
"""
