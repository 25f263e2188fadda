"""The names of older decoders on ours, so that code written for them runs by changing one import."""
