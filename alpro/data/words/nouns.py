"""Finds the nouns of captions by their position and by lists of other words; needs no tagger and no download.

A caption is split into phrases at punctuation, function words (articles, prepositions, pronouns, auxiliaries,
conjunctions), adverbs in -ly and verbs. Verbs are a list, and words in -ing or -ed after the first word of a phrase.
The last word of a phrase is its head. A listed adjective is a head only directly after an article ("to the left").
A word that is a head in at least half of its occurrences is a noun, and all its occurrences count. Compared with a
trained tagger, the rule errs on rare verbs and on nouns that mostly qualify others ("football player").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the his her its their my your our some any each every another no")
FUNCTION = ARTICLES | _words(
    """
    this that these those someone something anyone everyone somebody anything nothing everything
    of in on at to from by with without for into onto over under above below between among through across along around
    about against behind beside besides near off out up down toward towards during before after until since as than like
    upon within per via next inside outside beyond past and or but nor so yet if while when where why how what who whom
    whose which because although though unless i you he she it we they me him us them myself himself herself itself
    themselves one's is are was were be been being am do does did doing done have has had having will would can could
    shall should may might must not n't never there here then now too also very just only even still again away back
    together apart all both either neither none more most less least much many few several such same other others
    own forward forwards backward backwards ever always often sometimes soon later almost quite rather really well
    one two three four five six seven eight nine ten
    first second third once twice let lets s t
    """
)
_VERB_STEMS = """
    move go slide travel turn change grow shrink become get stay rest stand sit lie run walk jump play ride drive fly swim
    climb fall throw catch kick hit hold carry take give bring make cook cut eat drink pour mix stir add put place set
    show see look watch seem appear disappear speak talk say tell sing dance smile laugh cry read write draw open
    close push pull lift drop pick spin rotate float blow wave wear work wait start begin stop end leave enter come
    arrive return follow lead try use explain discuss describe perform practice demonstrate feature contain include
    enjoy hang touch crawl chase feed wash clean brush fix build break prepare sleep fight shoot compete score win
    lose serve surround sell buy pass reach keep remain happen pose celebrate rise hide zoom raise grab bend shake lean
    flip hop fade lay bounce roll crash slice peel chop scratch
    """
_IRREGULAR = _words(
    """
    went gone grew grown became got gotten stood sat lay lain ran rode ridden drove driven flew flown swam swum fell
    fallen threw thrown caught held took taken gave given brought made ate eaten drank shown saw seen spoke spoken said
    told sang sung began begun came led wore worn broke broken slept fought shot won lost sold bought kept rose risen hid
    hidden
    """
)
# Forms of the stems above that are more often nouns in captions.
_NOUNS_TOO = _words(
    "play work end place set cook show watch score drop wave start cut drink rest dance cry fall fight shot rose lead turn"
)
ADJECTIVES = _words(
    """
    red orange yellow green blue purple pink white black brown gray grey golden silver dark light bright colorful
    small little tiny big large huge tall short long wide narrow high low deep young old new ancient modern
    beautiful pretty cute nice happy sad angry hot cold warm cool wet dry fresh clean dirty full empty fast slow quick
    different various similar good bad best great wonderful amazing traditional professional local national
    international public private free open closed left right upper lower bigger smaller larger top bottom middle
    visible closer closest longer longest female male asian american european african indian chinese japanese wooden
    """
)
_ING_NOUNS = _words(
    """
    building ceiling morning evening king ring wedding clothing painting string thing wing spring swing landing
    meeting training lightning parking boxing wrestling skiing surfing swimming cooking fishing dancing cycling
    filming sling bowling
    """
)
_ED_NOUNS = _words("bed seed weed shed sled speed reed feed breed red")


def _inflect(stem: str) -> set[str]:
    forms = {stem}
    third = f"{stem}es" if stem.endswith(("s", "sh", "ch", "x", "o")) else f"{stem}s"
    if stem.endswith("y") and stem[-2] not in "aeiou":
        third = f"{stem[:-1]}ies"
    base = stem[:-1] if stem.endswith("e") else stem
    doubled = base + base[-1] if len(base) == 3 and base[-1] not in "aeiouwxy" and base[-2] in "aeiou" else base
    return forms | {third, f"{base}ing", f"{doubled}ing", f"{base}ed", f"{doubled}ed"}


VERBS = frozenset(form for stem in _VERB_STEMS.split() for form in _inflect(stem)) - _NOUNS_TOO | _IRREGULAR
_PIECE = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|[^\w\s]|\d+")


class NounFinder:
    """Reads captions one by one and finds the nouns of all of them."""

    def __init__(self) -> None:
        self._occurrences: Counter[str] = Counter()
        self._heads: Counter[str] = Counter()

    def add(self, caption: str) -> None:
        """Read one caption."""
        phrase: list[str] = []
        article = False
        for word in _PIECE.findall(caption.lower()):
            if len(word) > 1 and word[0].isalpha() and not self._ends_phrase(word, phrase, article):
                phrase.append(word)
                self._occurrences[word] += 1
                continue
            self._count_head(phrase, article)
            phrase, article = [], word in ARTICLES
        self._count_head(phrase, article)

    def nouns(self) -> Counter[str]:
        """Return every noun with the number of its occurrences."""
        return Counter({word: count for word, count in self._occurrences.items() if 2 * self._heads[word] >= count})

    @staticmethod
    def _ends_phrase(word: str, phrase: list[str], article: bool) -> bool:
        if word in FUNCTION or (word.endswith("ly") and word not in ("family", "butterfly", "fly", "belly", "jelly", "lily")):
            return True
        if word in VERBS:
            return not (article and not phrase)  # "a run", "the climb"; but "the ball runs"
        if phrase and word.endswith("ing") and word not in _ING_NOUNS:
            return True
        return bool(phrase) and word.endswith("ed") and word not in _ED_NOUNS

    def _count_head(self, phrase: list[str], article: bool) -> None:
        if not phrase:
            return
        head = phrase[-1]
        if head in ADJECTIVES and not (article and len(phrase) == 1):
            return
        self._heads[head] += 1


def count_nouns(captions: Iterable[str]) -> Counter[str]:
    """Count the occurrences of each noun in the captions."""
    finder = NounFinder()
    for caption in captions:
        finder.add(caption)
    return finder.nouns()
