"""The words that ``guards`` knows: data, no rules. English first; politeness, negations and small words of six other languages.

What is missing here is not thereby served: every word is compared, these only say more of why, or that it is never to be waived.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ASKING", "ASKS", "AXES", "CONTRACTIONS", "CURRENCIES", "FUNCTION_WORDS", "HOMOGRAPHS", "LANGUAGES", "LINKS", "MONTHS", "NEGATIONS", "NUMBER_WORDS", "PEOPLE", "PLACES", "POLITE", "QUANTIFIERS", "SAME_WORDS", "SPOKEN_OF", "TIME_WORDS", "UNITS", "WEEKDAYS"]  # fmt: skip


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _sides(text: str) -> dict[str, tuple[str, int]]:
    """Lines of ``one words | other words`` to the axis and the side of every word."""
    found: dict[str, tuple[str, int]] = {}
    for line in text.strip().splitlines():
        one, other = (side.split() for side in line.split("|"))
        axis = f"{one[0]} / {other[0]}"
        for side, words in enumerate((one, other)):
            for word in words:
                found.setdefault(word, (axis, side))
    return found


AXES: Final = _sides("""
enable enabled enables enabling activate activated activates activating unmute unmuted turn_on switch_on start started starts starting begin begins began launch resume resumed unpause | disable disabled disables disabling deactivate deactivated deactivates deactivating mute muted turn_off switch_off stop stopped stops stopping end ends ended halt pause paused
before prior earlier ahead previous preceding | after later following afterwards next subsequent
increase increased increases increasing raise raised raises raising grow grew growth rise rises rising rose up more higher upgrade upgraded maximum max maximise maximize | decrease decreased decreases decreasing reduce reduced reduces reducing lower lowered lowers lowering shrink fall falls falling fell drop dropped down less fewer downgrade downgraded minimum min minimise minimize
buy buys buying bought purchase purchased purchasing | sell sells selling sold sale
open opens opened opening | close closes closed closing shut
allow allowed allows permit permitted permits accept accepted accepts approve approved approves grant granted legal permitted | forbid forbidden forbids deny denied denies prohibit prohibited block blocked blocks reject rejected rejects decline declined declines refuse refused refuses revoke revoked ban banned illegal
add added adds adding include included includes including insert inserted append attach attached install installed installing | remove removed removes removing exclude excluded excludes excluding delete deleted deletes deleting detach detached uninstall uninstalled uninstalling erase erased
send sends sending sent pay pays paying paid give gives giving gave | receive receives receiving received get_paid take takes taking took collect
deposit deposits deposited depositing credit credited | withdraw withdraws withdrew withdrawal withdrawals withdrawing debit debited
lock locked locks locking encrypt encrypted encode encoded compress compressed pack zip | unlock unlocked unlocks unlocking decrypt decrypted decode decoded decompress decompressed unpack unzip
win wins winning won victory | lose loses losing lost loss defeat defeated
hot hotter hottest warm warmer heat heating | cold colder coldest cool cooler cooling chill
big bigger biggest large larger largest long longer longest tall taller high | small smaller smallest little short shorter shortest tiny low lowest
highest most best top | worst least bottom
good better great well right correct true valid safe positive | bad worse poor wrong incorrect false invalid unsafe dangerous negative
fast faster fastest quick quicker quickly rapid | slow slower slowest slowly
old older oldest ancient | new newer newest young younger youngest modern
first start beginning | last final ending
import imports imported importing upload uploads uploaded uploading push pushed | export exports exported exporting download downloads downloaded downloading pull pulled
join joined joins subscribe subscribed subscribes follow followed enter entered login log_in sign_in | leave left leaves unsubscribe unsubscribed unsubscribes unfollow unfollowed exit exited logout log_out sign_out
in inside into indoors internal inbound incoming | out outside outdoors external outbound outgoing
on | off
above over exceed exceeds exceeded | below under beneath underneath
with | without
left | right
north northern | south southern
east eastern | west western
public visible show shows shown shows display displayed | private hidden hide hides hiding conceal
early earliest | late latest
cheap cheaper cheapest inexpensive | expensive dear costly pricey
full filled fill | empty emptied
easy easier easiest simple | hard harder hardest difficult complex
love loves loved like likes liked | hate hates hated dislike dislikes disliked
succeed succeeded success successful pass passed | fail failed fails failure failing
alive live living | dead die died
always | never rarely seldom
same equal identical | different differ differs
present here | absent gone
strong stronger strongest | weak weaker weakest
rich | poor
hire hired hiring employ | fire fired firing dismiss
lend lends lent lending | borrow borrows borrowed borrowing
arrive arrives arrived arrival arriving | depart departs departed departure departing
teach teaches taught teaching | learn learns learned learning
create created creates creating build built make | destroy destroyed destroys destroying demolish break broke
even | odd
ascending ascend oldest_first | descending descend newest_first
horizontal horizontally | vertical vertically
male man men boy husband father son | female woman women girl wife mother daughter
morning | evening
day | night
mandatory required compulsory obligatory | optional voluntary
temporary temporarily | permanent permanently
manual manually | automatic automatically
expand expanded expands zoom_in | collapse collapsed collapses zoom_out contract
freeze froze frozen | thaw unfreeze unfreezes unfroze defrost
advantage advantages pro pros benefit benefits | disadvantage disadvantages con cons drawback drawbacks risk risks
support supports supported | oppose opposes opposed
merge merges merged combine | split splits separate
""")

NEGATIONS: Final = _set(
    """no not never none nobody nothing nowhere neither nor cannot without hardly barely unable lack lacks lacking n't
    dont doesnt didnt cant couldnt wont wouldnt isnt arent wasnt werent hasnt havent hadnt shouldnt mustnt aint neednt
    fail fails failed refuse refuses refused avoid avoids stop stops prevent prevents except unless instead
    kein keine keinen nicht nie niemals ohne pas jamais sans aucun aucune sin nunca ningún ninguna nunca senza mai nessun não nunca sem niet geen nooit zonder"""
)

FUNCTION_WORDS: Final = _set(
    """a an the this that these those it its it's i me my mine myself we us our ours you your yours he him his she her hers they
    them their theirs one's am is are was were be been being do does did done doing have has had having can could will would
    shall should may might must 'll 've 're 'm 'd 's let lets s t re ve ll d m
    to of in on at for from by with about as into onto upon within during through per via than and or but so if then because
    since while although though also too very really quite rather there here what which who whom whose when where why how
    please kindly hi hello hey thanks thank thankyou cheers dear sorry just some any get got getting gotten want wants wanted need needs
    like would know tell say let me help explain show possible possibly able way ways something anything someone anyone thing things
    im ive id youre whats hows wheres theres its thats ill well ok okay um uh oh yes yeah now currently still already yet again
    wonder wondering asking ask question hoping trying try tried going go gonna make sure seems seem looks look appears appear
    not no n't dont doesnt didnt cant couldnt wont wouldnt isnt arent wasnt werent hasnt havent hadnt shouldnt cannot"""
)

PEOPLE: Final = _set(
    """i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself they them
    their theirs themselves one"""
)

LINKS: Final = _set(
    """to of in on at for from by with without about into onto upon within during through per via than and or nor but if unless whether
    because since until till before after over under between among against off out up down as so while except like near around along
    across behind beside beyond above below inside outside towards toward despite instead not no"""
)

ASKING: Final = _set(
    """what which who whom whose when where why how was wer wem wen wann wo warum wieso wie welche welcher welches que quoi qui quel quelle
    quels quelles quand où pourquoi comment combien qué quién cuál cuándo dónde cómo cuánto cuánta cuántos cuántas che cosa chi quale
    quando dove perché come quanto quanta quem qual onde porquê wat wie welke wanneer waar waarom hoe"""
) - {"was", "come"}

POLITE: Final = {
    "asking": ("please", "kindly", "bitte", "s'il vous plaît", "s'il te plaît", "por favor", "per favore", "alsjeblieft", "alstublieft"),
    "greeting": (
        "hi there", "hi", "hello there", "hello", "hey", "good morning", "good afternoon", "good evening", "dear all", "thanks in advance", "thanks a lot", "many thanks", "thanks",
        "thank you very much", "thank you", "cheers", "hallo", "guten tag", "guten morgen", "danke", "vielen dank", "bonjour", "merci", "hola", "buenos días", "gracias",
        "muchas gracias", "ciao", "buongiorno", "grazie", "olá", "bom dia", "obrigado", "obrigada", "goedendag", "bedankt", "dank je", "dank u",
    ),
    "opening": ("quick question", "a quick question", "question", "please tell me", "tell me"),
}  # fmt: skip
"""What is said around a question and is no part of it: before it (a greeting only with a stop or a comma after it), or after it with a
stop or a comma before."""

SPOKEN_OF: Final = (
    "say", "says", "saying", "said", "word", "words", "translate", "translation", "mean", "means", "meaning", "spell", "pronounce", "write", "type", "reply", "answer",
    "heißt", "wort", "übersetze", "dire", "mot", "decir", "significa", "palabra", "traduce", "parola", "dizer", "palavra", "betekent", "woord",
)  # fmt: skip
"""Words of questions that may be about such words: "say hello, please"."""

CONTRACTIONS: Final = {
    **{f"{word}{end}": (word, "is") for word in ("what", "who", "where", "how", "when", "why", "that", "there", "here", "it", "he", "she") for end in ("'s",)},
    "can't": ("can", "not"), "cant": ("can", "not"), "cannot": ("can", "not"), "won't": ("will", "not"), "wont": ("will", "not"), "shan't": ("shall", "not"),
    **{f"{word}nt": (word, "not") for word in ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "should", "could", "would")},
}  # fmt: skip

ASKS: Final = ASKING | _set(
    """do does did is are am was were have has had can could will would shall should may might must don't isn't aren't can't won't"""
)
"""What a question begins with that needs no question mark."""

HOMOGRAPHS: Final = _set(
    """polish turkey china chile jordan georgia nice reading cork bath phoenix may march august will mark bill rose jack frank grant pat sue
    apple amazon target shell gap oracle windows word teams excel access outlook swift java python go rust"""
)
"""Names that are other words, too: their capital says something at the beginning of a sentence, too."""

_ONES: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SAME_WORDS: Final = {
    word: words.split()[0]
    for words in (
        "find locate see", "purchase buy", "mobile phone cellphone", "occur happen", "incorrect wrong", "mistake error",
        "broken defective", "begin start", "assist help aid", "obtain receive", "fee charge cost price", "quick fast",
        "topup top-up", "picture photo image", "film movie", "automobile car", "fix repair", "need require",
        "reason cause", "method way", "modify change alter", "cash money", "e-mail email mail", "colour color", "favourite favorite",
        "recognise recognize", "cancelled canceled", "travelling traveling", "centre center", "organise organize", "abroad overseas",
        "id identity identification", "app application",
    )
    for word in words.split()
}  # fmt: skip

NUMBER_WORDS: Final = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: value * 10 for value, word in enumerate(_TENS, 2)},
    "hundred": 100,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
}
"""English ones. Words that only mean a number sometimes (dozen, double, once, null) are words, and so are those of other languages."""

UNITS: Final = {
    word: words.split()[0]
    for words in (
        "mm millimetre millimetres millimeter millimeters", "cm centimetre centimetres centimeter centimeters", "m metre metres meter meters", "km kilometre kilometres kilometer kilometers kms",
        "mi mile miles", "ft foot feet", "inch inches", "yd yard yards", "mg milligram milligrams", "g gram grams gramme", "kg kilo kilos kilogram kilograms", "lb lbs", "pound pounds", "oz ounce ounces",
        "ml millilitre millilitres milliliter milliliters", "l litre litres liter liters", "gal gallon gallons", "ms millisecond milliseconds", "s sec secs second seconds", "min mins minute minutes", "h hr hrs hour hours",
        "day days", "week weeks", "month months", "year years yr yrs", "kb kilobyte kilobytes", "mb megabyte megabytes", "gb gigabyte gigabytes gig gigs", "tb terabyte terabytes",
        "c celsius", "f fahrenheit", "k", "w watt watts", "kw kilowatt kilowatts", "v volt volts", "hz hertz", "mph", "kmh kph", "percent % pct", "am", "pm", "px pixel pixels", "person persons people", "times",
    )
    for word in words.split()
}  # fmt: skip

CURRENCIES: Final = {
    word: words.split()[0]
    for words in (
        "usd $ dollar dollars bucks", "eur € euro euros", "gbp £ quid sterling", "jpy ¥ yen", "cny yuan renminbi rmb", "inr ₹ rupee rupees", "chf franc francs",
        "krw ₩ won-currency", "rub ₽ ruble rubles rouble roubles", "brl real reais", "mxn peso pesos", "sek krona kronor", "nok krone kroner", "dkk", "pln zloty", "czk koruna",
        "huf forint", "try lira", "cad", "aud", "nzd", "sgd", "hkd", "zar rand", "btc bitcoin bitcoins", "eth ether ethereum", "thb baht", "ils shekel shekels", "aed dirham",
    )
    for word in words.split()
}  # fmt: skip

MONTHS: Final = {
    word: index
    for index, words in enumerate(
        ("january jan", "february feb", "march", "april apr", "may_", "june jun", "july jul", "august aug", "september sept sep", "october oct", "november nov", "december dec"), 1
    )
    for word in words.split()
}  # fmt: skip

WEEKDAYS: Final = {
    word: index
    for index, words in enumerate(
        ("monday mondays mon", "tuesday tuesdays tue", "wednesday wednesdays wed", "thursday thursdays thu", "friday fridays fri", "saturday saturdays", "sunday sundays"), 1
    )
    for word in words.split()
}  # fmt: skip

TIME_WORDS: Final = {
    word: words.split()[0]
    for words in (
        "today", "tonight", "tomorrow", "yesterday", "weekend weekends", "weekday weekdays", "morning mornings", "noon midday", "afternoon afternoons", "evening evenings", "midnight",
        "daily", "weekly", "monthly", "yearly annually annual", "hourly", "quarterly quarter", "spring", "summer", "autumn", "winter", "first 1st", "second_ 2nd", "third 3rd", "last", "next",
        "fourth 4th", "fifth 5th", "previous", "current", "later", "ago", "recently recent",
    )
    for word in words.split()
}  # fmt: skip

QUANTIFIERS: Final = {
    word: words.split()[0]
    for words in (
        "all every each entire whole everything everyone everybody always", "only solely exclusively merely", "both", "either", "half", "most mostly", "few several", "almost nearly",
        "least", "exactly precisely", "roughly about_ approximately around_", "except excluding besides", "some_",
    )
    for word in words.split()
}  # fmt: skip

PLACES: Final = _set(
    """afghanistan albania algeria america american argentina argentinian armenia australia australian austria austrian bangladesh belgium
    belgian bolivia brazil brazilian britain british bulgaria cambodia cameroon canada canadian chile china chinese colombia croatia
    cuba cyprus czech denmark danish ecuador egypt egyptian england english estonia ethiopia europe european finland finnish france french
    georgia german germany ghana greece greek hungary hungarian iceland india indian indonesia iran iraq ireland irish israel italy
    italian jamaica japan japanese jordan kazakhstan kenya korea korean kuwait latvia lebanon libya lithuania luxembourg malaysia malta
    mexico mexican monaco mongolia morocco nepal netherlands dutch nigeria norway norwegian pakistan panama paraguay peru philippines
    poland polish portugal portuguese qatar romania russia russian rwanda scotland scottish serbia singapore slovakia slovenia somalia
    spain spanish sudan sweden swedish switzerland swiss syria taiwan tanzania thailand thai tunisia turkey turkish uganda ukraine
    uk usa uae uruguay venezuela vietnam vietnamese wales welsh yemen zambia zimbabwe africa asia antarctica
    amsterdam athens atlanta austin bangkok barcelona beijing berlin bogota boston brussels budapest cairo chicago copenhagen dallas delhi
    denver detroit dubai dublin edinburgh frankfurt geneva hamburg helsinki houston istanbul jakarta karachi lagos lima lisbon london
    lyon madrid manchester manila melbourne miami milan montreal moscow mumbai munich nairobi naples oslo paris philadelphia phoenix
    prague riga rome rotterdam santiago seattle seoul shanghai stockholm sydney tallinn tokyo toronto vancouver venice vienna vilnius
    warsaw washington wellington zurich california texas florida ohio virginia oregon"""
)

LANGUAGES: Final = {
    "English": _set("the is are was of and to in that it with for you how what my this have not do does"),
    "German": _set("der die das ist sind und nicht ich wie was mein meine mit für ein eine zu den auf wann kann"),
    "French": _set(
        "le la les est sont et ne pas je comment que quoi mon ma mes avec pour un une des du où est-ce puis"
    ),
    "Spanish": _set("el la los las es son y no yo cómo como qué que mi mis con para un una de del dónde puedo"),
    "Italian": _set("il lo la gli è sono e non io come che cosa mio mia con per un una di del dove posso"),
    "Portuguese": _set("o a os as é são e não eu como que meu minha com para um uma de do da onde posso"),
    "Dutch": _set("de het een is zijn en niet ik hoe wat mijn met voor van op waar kan wanneer"),
}
