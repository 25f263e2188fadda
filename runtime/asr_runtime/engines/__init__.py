"""Engines that turn waveforms into log-probabilities."""
