"""Training of a WordPiece vocabulary: the most frequent pair of pieces is merged to a new piece, repeatedly.

The trainer of the `tokenizers` package uses the same rule, but breaks ties differently from run to run. Here the same
words give the same vocabulary. `tokenizers` splits the texts into words as BERT does.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of the texts, lower-cased and split like BERT's tokenizer."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    lines = Counter(texts)
    words: Counter[str] = Counter()
    for line, count in lines.items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)):
            words[word] += count
    return words


def learn_pieces(words: Counter[str], size: int) -> list[str]:
    """Return at most `size` pieces: all characters, then merges by frequency. `##` precedes pieces that continue a word.

    Equally frequent pairs are merged in alphabetical order. All characters are returned even if there are more than
    `size`; the caller must check this.
    """
    spelled = {word: [word[0], *(f"##{char}" for char in word[1:])] for word in sorted(words)}
    characters = {piece for spelling in spelled.values() for piece in spelling}
    pieces = sorted(characters, key=lambda piece: (piece.startswith("##"), piece))
    vocabulary = set(pieces)
    counts: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, spelling in spelled.items():
        for pair in pairwise(spelling):
            counts[pair] += words[word]
            words_with[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(pieces) < size:
        count, pair = heapq.heappop(heap)
        if counts[pair] != -count or count == 0:
            continue  # outdated: the count has changed since
        piece = pair[0] + pair[1].removeprefix("##")
        if piece not in vocabulary:
            vocabulary.add(piece)
            pieces.append(piece)
        changed = set()
        for word in words_with.pop(pair):
            before, after = spelled[word], _merge(spelled[word], pair, piece)
            spelled[word] = after
            for old in pairwise(before):
                counts[old] -= words[word]
                changed.add(old)
            for new in pairwise(after):
                counts[new] += words[word]
                words_with[new].add(word)
                changed.add(new)
        for pair in changed:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
    return pieces


def _merge(spelling: list[str], pair: tuple[str, str], piece: str) -> list[str]:
    merged: list[str] = []
    at = 0
    while at < len(spelling):
        if tuple(spelling[at : at + 2]) == pair:
            merged.append(piece)
            at += 2
        else:
            merged.append(spelling[at])
            at += 1
    return merged
