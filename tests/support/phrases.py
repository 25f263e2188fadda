"""Phrases in texts, for the tests of hot words."""


def count(words: list[str], phrase: str) -> int:
    """How often the phrase stands in the words, without overlaps."""
    parts, found, i = phrase.split(), 0, 0
    while i < len(words):
        hit = words[i : i + len(parts)] == parts
        found, i = (found + 1, i + len(parts)) if hit else (found, i + 1)
    return found
