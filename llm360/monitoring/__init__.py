"""Watching runs: the catalogue of metrics, the record of steps as such metrics, and what is generated from both.

    catalogue ──▶ collectors of driver and operator (/metrics) ──▶ Prometheus ──▶ dashboards, alerts
        └──▶ replay: the durable record of a release, with its true times ──▶ Prometheus, TensorBoard, tables

The record in the release is the truth; Prometheus is a view of it that may forget.
"""
