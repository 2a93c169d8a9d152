"""Pairs of requests that sound alike and want different answers, made from sentences and a seed.

Rule 1: a flip changes one thing that matters: a number, a name, what is quoted, the direction, who, whether. Everything else stays, or is
        said in other small words.
Rule 2: ``HELD_OUT`` are opposites and names that no guard lists. Guards that only knew lists would serve them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["HELD_OUT", "Flip", "flips"]


class Flip(NamedTuple):
    kind: str
    kept: tuple[str, ...]
    """Questions with one answer that have been asked before."""
    asked: str
    """One that wants another."""


# Opposites of which no guard knows any.
HELD_OUT = (
    ("admit", "expel"), ("praise", "scold"), ("evict", "house"), ("hoist", "dunk"), ("mount", "dismount"), ("promote", "demote"),
    ("inflate", "deflate"), ("acquit", "convict"), ("assemble", "disassemble"), ("tighten", "loosen"), ("embark", "disembark"),
    ("sharpen", "blunt"), ("moisten", "dry"), ("ferment", "pasteurise"), ("commend", "reprimand"), ("shorten", "lengthen"),
    ("soften", "harden"), ("darken", "brighten"), ("dilute", "concentrate"), ("magnetise", "demagnetise"), ("arm", "disarm"),
    ("wrap", "unwrap"), ("plug", "unplug"), ("dock", "undock"), ("couple", "uncouple"), ("elect", "depose"), ("recruit", "discharge"),
    ("bend", "straighten"), ("stretch", "squeeze"), ("winterise", "summerise"), ("whitelist", "blacklist"), ("quarantine", "free"),
)  # fmt: skip
_LISTED = (
    ("enable", "disable"), ("increase", "decrease"), ("buy", "sell"), ("open", "close"), ("approve", "reject"), ("add", "remove"),
    ("send", "receive"), ("lock", "unlock"), ("upload", "download"), ("import", "export"), ("encrypt", "decrypt"), ("start", "stop"),
    ("deposit", "withdraw"), ("expand", "collapse"), ("install", "uninstall"), ("merge", "split"), ("lend", "borrow"), ("hire", "fire"),
    ("show", "hide"), ("freeze", "thaw"), ("raise", "lower"), ("mute", "unmute"), ("subscribe", "unsubscribe"), ("teach", "learn"),
)  # fmt: skip
_OBJECTS = (
    "the nightly backup of the archive", "our turbine in the north shed", "the visitor at the gate", "the blue valve on the boiler",
    "members of the rowing club", "the signal for platform crew", "the trailer behind the truck", "my brother's account at the library",
    "the sensor next to the furnace", "this batch of cider", "the camera feed in the lobby", "the pump under the greenhouse",
)  # fmt: skip
_ASKING = (
    "{verb} {thing}", "Please {verb} {thing}.", "How do I {verb} {thing}?", "Can you {verb} {thing}?", "what is the way to {verb} {thing}",
    "I want to {verb} {thing} now", "Could you help me {verb} {thing}, please?", "Tell me how to {verb} {thing}",
)  # fmt: skip
_NAMES = (
    "Okonkwo",
    "Halvorsen",
    "Petrauskas",
    "Nakagawa",
    "Villanueva",
    "Brandt",
    "Achterberg",
    "Szymanska",
    "Delacroix",
    "Mbeki",
)
_TOWNS = (
    "Gdynia",
    "Aveiro",
    "Tromsø",
    "Kaunas",
    "Linz",
    "Perpignan",
    "Bergen",
    "Ostrava",
    "Paris",
    "Tokyo",
    "Chicago",
    "Leeds",
)
_FIRMS = ("Zentrafort", "Quillbyte", "Ferrowise", "Nordhaven", "Palisade", "Umbra Labs", "Kestrel", "Oakline")
_NUMBERED = (
    "How many tablets of {n} mg may an adult take?", "Convert {n} miles to kilometres", "What is {n} percent of the total?",
    "Book a table for {n} people", "Set the thermostat to {n} degrees", "Is a deposit of ${n} refundable?", "List the top {n} customers by revenue",
    "Does version {n} run on the old kernel?", "Remind me in {n} minutes", "What happened in chapter {n} of the book?", "Ship {n} boxes to the depot",
)  # fmt: skip
_SPELLED = {3: "three", 12: "twelve", 15: "fifteen", 40: "forty", 250: "two hundred and fifty"}
_CLAIMS = (
    ("The parcel {has} arrived at the depot, what next?", "has", "has not"), ("Users {can} edit the roster", "can", "cannot"),
    ("This mushroom {is} safe to eat, right?", "is", "isn't"), ("The patient {does} respond to penicillin", "does", "doesn't"),
    ("Give me recipes {with} peanuts", "with", "without"), ("Which trains {do} run on holidays?", "do", "don't"),
    ("My landlord {will} return the bond", "will", "won't"), ("Tests {should} touch the network", "should", "should never"),
    ("Why {was} the invoice paid?", "was", "was never"), ("Summarise the reviews that {are} from buyers", "are", "are not"),
    ("There is {a} reason to retry the job", "a", "no"), ("Which plants {like} shade?", "like", "do not like"),
)  # fmt: skip
_OPENERS = ("", "Please: ", "Hi, ", "Thanks, ", "Quick question: ")
_ORDERED = (
    "Is {a} better than {b} for baking?", "Convert {a} to {b}", "Why does {a} depend on {b}?", "Did {a} defeat {b}?",
    "Move everything from {a} into {b}", "Does {a} owe money to {b}?", "Should {a} come before {b}?", "Translate this from {a} into {b}",
    "Is {a} heavier than {b}?", "Use {a} instead of {b} in the recipe", "Can {a} inherit from {b}?", "Replace {a} with {b} everywhere",
)  # fmt: skip
_PAIRS = (
    ("spelt", "rye"), ("litres", "pints"), ("the parser", "the lexer"), ("hawks", "herons"), ("the attic", "the cellar"), ("Alice", "Bob"),
    ("zinc", "nickel"), ("Finnish", "Korean"), ("margarine", "butter"), ("the invoice", "the receipt"), ("Carlsen", "Nepo"), ("euros", "yen"),
)  # fmt: skip
_CODED = (
    "What does {c} do?", "Explain {c} to me", "Why does {c} raise an error?", "Is {c} safe to run in production?", "Write a test for {c}",
    "How do I document {c}?",
)  # fmt: skip
_CODE = (
    ("`rm -r build`", "`rm -rf /`"), ("parse_header()", "parse_footer()"), ("`x == y`", "`x = y`"), ("user.is_active", "user.is_admin"),
    ("--dry-run", "--force"), ("/etc/hosts", "/etc/passwd"), ("getUser", "setUser"), ("`SELECT *`", "`DELETE`"), ("utf-8", "utf-16"),
    ("v2.3.1", "v2.4.0"), ("AB-1234", "AB-1243"), ("https://a.example/x", "https://a.example/y"), ("ops@a.example", "sales@a.example"),
    ('"as is"', '"as was"'), ("'left join'", "'inner join'"), ("config.yaml", "config.json"), ("$HOME", "$PATH"), ("a < b", "a > b"),
)  # fmt: skip
_SINGLE = (
    ("who", "When was the bridge at Remagen built?", "Who built the bridge at Remagen?"),
    ("who", "Where does the choir rehearse?", "When does the choir rehearse?"),
    ("who", "How much does a licence for the kiln cost?", "Where does one buy a licence for the kiln?"),
    ("who", "Why did the reactor trip?", "When did the reactor trip?"),
    ("who", "How long does the ferry take?", "How often does the ferry go?"),
    ("duty", "Can contractors carry a badge?", "Must contractors carry a badge?"),
    ("duty", "Do I have to declare the greenhouse?", "Can I declare the greenhouse?"),
    ("duty", "May apprentices weld alone?", "Should apprentices weld alone?"),
    ("person", "Does he owe me an apology?", "Do I owe him an apology?"),
    ("person", "She told him to leave the room", "He told her to leave the room"),
    ("person", "What is your refund policy?", "What is my refund policy?"),
    ("person", "Did they sue us?", "Did we sue them?"),
    ("tense", "Did the audit take place on site?", "Will the audit take place on site?"),
    ("tense", "Was the ledger reconciled?", "Will the ledger be reconciled?"),
    ("quantity", "Delete all drafts in the folder", "Delete some drafts in the folder"),
    ("quantity", "Notify every tenant", "Notify only the tenant"),
    ("quantity", "Is each seat taken?", "Is half of each seat taken?"),
    ("quantity", "Erase everything except photographs", "Erase everything, photographs too"),
    ("degree", "Which route has the most tunnels?", "Which route has the fewest tunnels?"),
    ("degree", "List the cheapest kayaks", "List the lightest kayaks"),
    ("degree", "Is at least one guard awake?", "Is at most one guard awake?"),
    ("language", "Wo ist der Bahnhof und wie komme ich hin?", "¿Dónde está la estación y cómo llego?"),
    ("language", "Was ist mein Kontostand?", "Was ist nicht mein Kontostand?"),
    ("script", "Translate: привет", "Translate: γεια"),
    ("qualifier", "List the users of the wiki", "List the banned users of the wiki"),
    ("qualifier", "Is aspirin safe for adults?", "Is aspirin safe for pregnant adults?"),
    ("qualifier", "Refund the order", "Refund the order and the postage"),
    ("qualifier", "Close my savings account", "Close my account"),
    ("time", "Is the museum open on Monday?", "Is the museum open on Sunday?"),
    ("time", "Weather for tomorrow in the valley", "Weather for today in the valley"),
    ("time", "Sales in March against plan", "Sales in April against plan"),
    ("time", "Show the minutes of the first meeting", "Show the minutes of the last meeting"),
    ("time", "Remind me before the concert", "Remind me after the concert"),
    ("unit", "Is 5 km far for a beginner?", "Is 5 miles far for a beginner?"),
    ("unit", "Will 3 GB do for the index?", "Will 3 TB do for the index?"),
    ("unit", "Does it cost 20 euros?", "Does it cost 20 dollars?"),
    ("unit", "Wait 10 seconds then retry", "Wait 10 minutes then retry"),
    ("unit", "Dose of 2 mg of the syrup", "Dose of 2 ml of the syrup"),
)  # fmt: skip


def flips(seed: int) -> Iterator[Flip]:
    """More than a thousand, of every kind."""
    draw = random.Random(seed)
    yield from _opposites("listed opposites", _LISTED, draw)
    yield from _opposites("held-out opposites", HELD_OUT, draw)
    yield from _numbers(draw)
    yield from _names(draw)
    for text, plain, negated in _CLAIMS:
        slot = text[text.index("{") : text.index("}") + 1]
        for opener in _OPENERS:
            yes, no = opener + text.replace(slot, plain), opener + text.replace(slot, negated)
            yield Flip("negation", (yes, text.replace(slot, plain)), no)
            yield Flip("negation", (no,), yes)
    for template in _ORDERED:
        for one, other in _PAIRS:
            there, back = template.format(a=one, b=other), template.format(a=other, b=one)
            yield Flip("order", (there, "Please, " + there), back)
    for template in _CODED:
        for one, other in _CODE:
            yield Flip("code", (template.format(c=one),), template.format(c=other))
            yield Flip("code", (template.format(c=other), "Hi! " + template.format(c=other)), template.format(c=one))
    for kind, one, other in _SINGLE:
        yield Flip(kind, (one,), other)
        yield Flip(kind, (other, "Hello, " + other), one)


def _opposites(kind: str, pairs: tuple[tuple[str, str], ...], draw: random.Random) -> Iterator[Flip]:
    for pair in pairs:
        for thing in draw.sample(_OBJECTS, 4):
            one, other = pair if draw.random() < 0.5 else pair[::-1]
            frames = draw.sample(_ASKING, 4)
            kept = tuple(frame.format(verb=one, thing=thing) for frame in frames[:3])
            yield Flip(kind, kept, draw.choice(frames[:3]).format(verb=other, thing=thing))
            yield Flip(kind, kept, frames[3].format(verb=other, thing=thing))


def _numbers(draw: random.Random) -> Iterator[Flip]:
    for template in _NUMBERED:
        for _ in range(8):
            one = draw.randrange(2, 900)
            other = draw.choice([one + 1, one * 10, one // 2 + 1000, int(str(one)[::-1]) + 1000])
            yield Flip(
                "number", (template.format(n=one), "Please: " + template.format(n=one)), template.format(n=other)
            )
        for value, word in _SPELLED.items():
            yield Flip("spelled number", (template.format(n=word),), template.format(n=value + 1))
            yield Flip("decimal number", (template.format(n=f"{value}.5"),), template.format(n=f"{value}.25"))


def _names(draw: random.Random) -> Iterator[Flip]:
    frames = (
        ("What is the phone number of {x}?", _NAMES), ("Draft a letter to {x} about the delay", _NAMES), ("Summarise the file on {x}", _NAMES),
        ("When does the train to {x} leave?", _TOWNS), ("hotels in {x} with a pool", _TOWNS), ("Is it raining in {x}?", _TOWNS),
        ("Who runs {x}?", _FIRMS), ("Compare the pension plan of {x} with ours", _FIRMS), ("did {x} file for bankruptcy", _FIRMS),
    )  # fmt: skip
    for template, words in frames:
        for _ in range(10):
            one, other = draw.sample(words, 2)
            if draw.random() < 0.3:
                one, other = one.lower(), other.lower()
            kept = (template.format(x=one), "Please tell me: " + template.format(x=one))
            yield Flip("name", kept, template.format(x=other))
