"""Other decoders, each in a process of its own; these files run by path on Python 3.9 too, where asr_bench is not."""
