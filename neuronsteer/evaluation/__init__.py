"""Evaluation: metrics, experiments that compute them with controls, and their reports."""
