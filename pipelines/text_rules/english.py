"""Word lists of English for the divider: determiners, linking words, finite verbs, words that judge."""

import re
from typing import NamedTuple


def word_set(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


NUMBERS = word_set("two three four five six seven eight nine ten eleven twelve")
SINGULAR = word_set("a an one each every another this that")
PLURAL = word_set("several many multiple few various numerous both these those couple pair dozens") | NUMBERS
DETERMINERS = SINGULAR | PLURAL | word_set("the some no any all my your his her its their our")
PRONOUNS = {"it": False, "he": False, "she": False, "they": True}  # whether of several
POSSESSIVES = {"its": "it", "his": "he", "her": "she", "their": "they"}
OBJECTS = {"it": "it", "him": "he", "her": "she", "them": "they"}
UNCLEAR = word_set("one other others another each some all both this that these those ones none neither who")
MASSES = word_set(
    "text snow water grass food smoke light sunlight rain fog ice sand dirt traffic furniture mud wood steel"
    " bread rice fruit graffiti steam lettering writing hair nobody everyone everybody someone somebody"
    " something nothing everything"
)  # things that need no determiner
PERSONS = word_set(
    "man woman boy girl child person baby toddler kid lady gentleman guy player rider driver skier surfer"
    " skateboarder worker chef waiter soldier officer policeman farmer fisherman bride groom mother father"
    " teacher student doctor nurse singer dancer musician artist photographer vendor pedestrian cyclist"
    " adult teenager friend boyfriend girlfriend king queen santa batter pitcher catcher runner swimmer"
)
INGS = word_set(
    "thing king ring wing string spring building ceiling painting clothing lighting wedding railing awning"
    " parking sibling pudding swing earring icing topping filling drawing evening morning awning lining wiring"
    " flooring carving bearing covering setting opening crossing landing ending"
)  # things, not what they do
WE = word_set("i we you")
PREPOSITIONS = word_set(
    "in on at by with near under over above below behind beside between next left right of from across along around"
    " through into onto against among inside outside toward towards within without beneath beyond during for to upon"
    " opposite alongside amid underneath atop like"
)
RELATIVES = word_set("that which who whose where when while as because since if although though")
ALONE = word_set("together side facing each one alike apart similar different identical")  # of several only

BE = {"is": "are", "are": "are", "was": "were", "were": "were"}
HAVE = word_set("has have had")
DO = word_set("does do did")
MODALS = word_set("can could will would shall must should cannot")
AUXILIARIES = BE.keys() | HAVE | DO | MODALS
MAYBE = word_set("may might perhaps maybe possibly probably presumably likely suggest suggests suggesting imply implies"
                  " implying indicate indicates indicating could would evoke evokes evoking convey conveys conveying"
                  " believe think feel imagine guess")  # fmt: skip
JUDGING = word_set(  # adjectives of taste
    "beautiful lovely nice pretty wonderful amazing stunning gorgeous charming delightful pleasant cozy cosy peaceful"
    " serene tranquil cheerful inviting interesting striking impressive elegant captivating picturesque breathtaking"
    " magnificent great perfect cute adorable appealing eye-catching dramatic harmonious playful whimsical remarkable"
    " fascinating ugly boring awesome fantastic superb splendid majestic romantic welcoming enjoyable memorable"
    " intriguing exciting spectacular good bad"
)
FEELINGS = word_set("atmosphere mood ambiance ambience feeling feel vibe impression sense charm beauty aesthetic")
DEGREES = word_set("very quite really rather so truly extremely particularly especially absolutely")
COLOURS = word_set(
    "red orange yellow green blue purple pink black white gray grey brown beige golden silver gold teal navy"
)
FEW_PLURALS = word_set("people men women children feet teeth mice geese police cattle sheep")
NO_PLURALS = word_set("grass glass bus gas lens cross dress mattress class canvas this is its series news")

VERBS = """
sit:sat stand:stood lie:lay hang hold:held wear:wore read say:said show display depict contain feature include carry
ride:rode drive:drove walk run:ran play eat:ate drink:drank look watch smile laugh lean rest cover surround fill
stretch rise:rose grow:grew shine:shone fly:flew swim:swam jump climb touch overlap point lead flow reach connect
occupy dominate span frame overlook use talk work cook cut sleep:slept throw:threw catch:caught kick hit
push pull pour serve sell:sold buy:bought take:took make:made give:gave put spell float glow decorate line mark border
adorn wave kneel crouch gaze stare perch graze bloom extend separate divide face park prepare wait write:wrote
speak:spoke belong consist begin:began end start cast blow:blew burn bear hide gather enter go:went come:came
have:had do:did get:got keep:kept bring:brought see:saw form create add
"""


class Verb(NamedTuple):
    base: str
    form: str  # base, third, past


def third(base: str) -> str:
    """The form of a verb after he, she and it."""
    if base in ("have", "do", "go"):
        return {"have": "has", "do": "does", "go": "goes"}[base]
    if re.search(r"(s|x|z|ch|sh)$", base):
        return base + "es"
    return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"


def _forms() -> dict[str, Verb]:
    forms: dict[str, Verb] = {}
    for entry in VERBS.split():
        base, _, past = entry.partition(":")
        if past:
            forms[past] = Verb(base, "past")
        forms[third(base)] = Verb(base, "third")
        forms.setdefault(base, Verb(base, "base"))
    return forms


FORMS = _forms()


def plural_word(word: str) -> bool:
    """Whether a word looks like a plural noun."""
    word = word.lower()
    return word in FEW_PLURALS or (
        len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) and word not in NO_PLURALS
    )
