"""Speech to text from a bundle, without PyTorch."""
