"""Evaluation of models: metrics, and their spread over clients."""
