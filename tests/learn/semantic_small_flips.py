"""Pairs of questions that differ in something small and want different answers, by what it is. Written by hand.

Rule 1: nothing else differs, so that no other word can be what tells them apart; in "fewer words" a question says only less.
Rule 2: a line is one pair, and either question may be the one that was asked before.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SMALL_FLIPS"]

_LINES: Final = {
    "direction": """
How do I ferry goods to Malmö? | How do I ferry goods from Malmö?
Which bus runs to the museum? | Which bus runs from the museum?
Copy the rows into the archive | Copy the rows out of the archive
Who got a parcel from Ines? | Who got a parcel to Ines?
Import the notes to the tablet | Import the notes from the tablet
Is there a toll into the valley? | Is there a toll through the valley?
Can I walk up the tower? | Can I walk down the tower?
Is the pipe over the road? | Is the pipe under the road?
Do I turn in the key? | Do I turn out the key?
Is the lamp on the shelf? | Is the lamp off the shelf?
""",
    "prepositions": """
Who was the song composed by? | Who was the song composed for?
Is the essay about Kafka? | Is the essay by Kafka?
Must the form be in on Tuesday? | Must the form be in by Tuesday?
Has he lived here since June? | Has he lived here until June?
Will it be ready in 20 days? | Will it be ready within 20 days?
May I swim before lunch? | May I swim after lunch?
Can I hike with a guide? | Can I hike without a guide?
What may I deduct for fuel? | What may I deduct from fuel?
Is the stamp for Grandpa? | Is the stamp from Grandpa?
What did Mia say about Tom? | What did Mia say to Tom?
Is the boat at the pier? | Is the boat near the pier?
How is duty levied on wine? | How is duty levied by wine?
How do I sign up? | How do I sign off?
How do I log in? | How do I log on?
""",
    "conjunctions": """
May I mix ammonia and chlorine? | May I mix ammonia or chlorine?
Do I get a rebate if I cancel? | Do I get a rebate because I cancel?
Should I wait unless he calls? | Should I wait if he calls?
Is salt or sugar in it? | Is salt and sugar in it?
Do I stay while she speaks? | Do I stay until she speaks?
""",
    "people": """
Do I owe you rent? | Do you owe me rent?
Can I ring you at noon? | Can you ring me at noon?
Can we audit you? | Can you audit us?
Do you trust me? | Do I trust you?
Who can I invite? | Who can invite me?
Who did I text? | Who texted me?
Should my staff read your mail? | Should your staff read my mail?
Does the shop bill you or me? | Does the shop bill me or you?
Is she taller than I am? | Is she taller than he is?
Are we to feed them? | Are they to feed us?
What is my quota? | What is your quota?
What is my quota? | What is the quota?
Is it you who drives me? | Is it me who drives you?
Let me read it | Let us read it
Where is their clinic? | Where is her clinic?
""",
    "letters": """
Is the coat there in size L? | Is the coat there in size S?
What is vitamin K for? | What is vitamin E for?
What is vitamin K for? | What is vitamin for?
Where is gate B? | Where is gate C?
Is hepatitis B curable? | Is hepatitis C curable?
How heavy is the Model Y? | How heavy is the Model X?
Is the R train late? | Is the Q train late?
Which exam gives grade A? | Which exam gives grade a?
How do I mount drive E? | How do I mount drive F?
Does block H have a lift? | Does block J have a lift?
Who was Louis XV? | Who was Louis XVI?
""",
    "capitals": """
Do you post to the US? | Do you post to the us?
Who helps in IT? | Who helps in it?
Is Will late? | Is will late?
What does WHO say on flu? | What does who say on flu?
How do I Polish it? | How do I polish it?
Is it dry in May? | Is it dry in may?
Is 40 MB enough? | Is 40 Mb enough?
What is 3 mW? | What is 3 MW?
Is a Bush on the list? | Is a bush on the list?
""",
    "signs": """
How do I parse dates in C? | How do I parse dates in C++?
How do I parse dates in C++? | How do I parse dates in C#?
Can A+ give blood to all? | Can A- give blood to all?
Compute 6*7 | Compute 6+7
Compute 9/3 | Compute 9-3
Compute 5! | Compute 5
Keep rows where n<40 | Keep rows where n>40
Does it stop when y=2? | Does it stop when y!=2?
Is it fine if p==q? | Is it fine if p!=q?
Does n<=8 hold? | Does n>=8 hold?
What does !ok return? | What does ok return?
What is n++ here? | What is n-- here?
What is a&b here? | What is a|b here?
Does x* match it? | Does x+ match it?
What does # do in a file? | What does ; do in a file?
What is 6' in metres? | What is 6" in metres?
Is 40 degrees hot? | Is 40 °F hot?
Write 7² in a cell | Write 7³ in a cell
What is ⅓ of it? | What is ⅔ of it?
Is .5 mg enough? | Is 5 mg enough?
Is it over -20? | Is it over 20?
What does 🙂 mean? | What does 🙃 mean?
What does ♠ stand for? | What does ♥ stand for?
How is F♯ played? | How is F♭ played?
Is ✓ a pass? | Is ✗ a pass?
Is it ~30 euros? | Is it >30 euros?
Is man-eating fish on sale? | Is man eating fish on sale?
Stop, cooks may enter | Stop cooks may enter
My parcel was opened | My parcel was opened?
Is co-op open now? | Is coop open now?
""",
    "word forms": """
Is there a bank near here? | Is there banking near here?
How do I change my train? | How do I change my training?
Where is my book? | Where is my booking?
What is a rate? | What is a rating?
Which plan is best? | Which plane is best?
How much is a car? | How much is a care?
Is the bar clean? | Is the bare clean?
How do I bake cod? | How do I bake code?
Where is the new shop? | Where is the news shop?
Where is my glass? | Where is my glasses?
What is the custom here? | What is the customs here?
How do I move a paint? | How do I move a painting?
Is the build done? | Is the building done?
How do I hang a tape? | How do I hang a tap?
Was the cub sold? | Was the cube sold?
Is the staff trained? | Is the staff training?
Was I billed? | Was I billing?
Is my date wrong? | Is my data wrong?
Who is Ana's chef? | Who is Ana a chef?
Is the cats' food here? | Is the cat's food here?
Did it fix it? | Did it repair it?
How do I see it? | How do I find it?
Do you want it? | Do you need it?
Is it very loud? | Is it too loud?
""",
    "question words": """
What is a visa? | How do I get a visa?
What is a lien? | Why is a lien?
Is my card blocked? | Why is my card blocked?
Can I close it? | How can I close it?
Who is in charge? | What is in charge?
When is it due? | Where is it due?
Which one is faulty? | What one is faulty?
Do I have a quota? | What is a quota?
Did it ship? | Does it ship?
Was it sent back? | Can it be sent back?
Is it sent? | Will it be sent?
What was the price? | What will the price be?
How many are in use? | How often are in use?
""",
    "fewer words": """
May I take ibuprofen with wine while nursing a baby? | May I take ibuprofen?
How do I reset my PIN after three wrong tries abroad? | How do I reset my PIN?
Can I end my lease and keep the deposit this year? | Can I end my lease?
What do pupils with poor eyesight need for the final exam? | What do pupils need for the exam?
Is the sauna and pool heated on winter nights only? | Is the pool heated?
Summarise the report on water prices in two lines for children | Summarise the report in two lines
Which ferry goes to the island on Sunday night after ten? | Which ferry goes to the island?
Can dentists nurses and vets deduct rent? | Can nurses deduct rent?
How do I undo the last pushed commit in a shared repository? | How do I undo a commit?
Who leads the sales team in the Porto office now? | Who leads the team in Porto?
Turn the hall kitchen and attic lights on | Turn the kitchen lights on
How do I say hello, please? | How do I say hello?
""",
    "order": """
What is 30 % of 70? | What is 70 % of 30?
What is two less 5? | What is 5 less two?
Is three and eight enough? | Is five and six enough?
Did the fox chase the hen? | Did the hen chase the fox?
Who did Ben hire? | Who hired Ben?
Is 4/5 done? | Is 5/4 done?
Due on 03/04/2031? | Due on 04/03/2031?
Does the guest pay the host? | Does the host pay the guest?
Is only Ana allowed to drive? | Is Ana allowed to only drive?
""",
    "German": """
Wie fahre ich nach Bremen? | Wie fahre ich von Bremen?
Kann ich dich besuchen? | Kannst du mich besuchen?
Was kostet das Zimmer mit Hund? | Was kostet das Zimmer ohne Hund?
Darf ich essen oder trinken? | Darf ich essen und trinken?
Ist das dein Konto? | Ist das mein Konto?
""",
    "French": """
Quel est le prix du bus pour Nice? | Quel est le prix du bus de Nice?
Puis-je payer avec ma carte? | Puis-je payer sans ma carte?
Est-ce que tu me dois de l'argent? | Est-ce que je te dois de l'argent?
Où est mon colis? | Quand est mon colis?
""",
    "Spanish": """
¿Cuánto cuesta el tren a Cádiz? | ¿Cuánto cuesta el tren de Cádiz?
¿Puedo firmar por mi hijo? | ¿Puedo firmar con mi hijo?
¿Dónde está tu llave? | ¿Dónde está mi llave?
""",
    "Italian": """
Quanto costa il bus per Pisa? | Quanto costa il bus da Pisa?
Posso entrare con il cane? | Posso entrare senza il cane?
""",
    "Portuguese": """
Quanto custa o voo para Faro? | Quanto custa o voo de Faro?
Posso pagar com cartão? | Posso pagar sem cartão?
""",
    "Dutch": """
Hoe kom ik naar Delft? | Hoe kom ik uit Delft?
Mag ik met mijn hond? | Mag ik zonder mijn hond?
""",
    "other scripts": """
मेरा बेटा कहाँ है | मेरी बेटी कहाँ है
नाना का नाम क्या है | नानी का नाम क्या है
मुझे दाल चाहिए | मुझे दिल चाहिए
আমার মা কোথায় | আমার মামা কোথায়
ข้าว ราคาเท่าไร | ข่าว ราคาเท่าไร
ม้า อยู่ที่ไหน | หมา อยู่ที่ไหน
அவன் எங்கே | அவள் எங்கே
如何买房 | 如何卖房
私は彼を待つ | 彼は私を待つ
билет в Омск | билет из Омска
он пришёл | он пришёл?
я жду тебя | ты ждёшь меня
كيف أربح | كيف أخسر
문을 여나요 | 문을 닫나요
Is π rational? | Is λ rational?
""",
}
SMALL_FLIPS: Final = {
    kind: [(one, other) for one, other in (line.split(" | ") for line in text.strip().splitlines())]
    for kind, text in _LINES.items()
}
"""Pairs by kind."""
