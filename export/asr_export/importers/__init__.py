"""Models that were trained elsewhere, as bundles: with the same proofs as models of `asr-train`."""
