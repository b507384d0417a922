"""Evaluation of models: metrics, their spread over clients, and models loaded from runs and files."""
