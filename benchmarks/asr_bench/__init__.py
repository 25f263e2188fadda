"""Throughput, latency and accuracy of bundles, measured."""
