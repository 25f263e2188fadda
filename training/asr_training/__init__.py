"""Training of CTC speech recognisers in PyTorch."""
