"""Prompts that say which language to answer in, in English or in that language itself."""

from __future__ import annotations

from ...errors import ParameterError
from ...languages import canonical

# Code, name in English, and the request in the language.
_LANGUAGES = """
af|Afrikaans|Antwoord in Afrikaans.
ar|Arabic|أجب باللغة العربية.
bg|Bulgarian|Отговори на български.
bn|Bengali|বাংলায় উত্তর দিন।
bo|Tibetan|བོད་ཡིག་ནང་ལན་འདེབས་རོགས།
ca|Catalan|Respon en català.
cs|Czech|Odpověz česky.
da|Danish|Svar på dansk.
de|German|Antworte auf Deutsch.
el|Greek|Απάντησε στα ελληνικά.
en|English|Answer in English.
es|Spanish|Responde en español.
et|Estonian|Vasta eesti keeles.
fa|Persian|به فارسی پاسخ بده.
fi|Finnish|Vastaa suomeksi.
fr|French|Réponds en français.
he|Hebrew|ענה בעברית.
hi|Hindi|हिंदी में उत्तर दें।
hr|Croatian|Odgovori na hrvatskom.
hu|Hungarian|Válaszolj magyarul.
id|Indonesian|Jawablah dalam bahasa Indonesia.
it|Italian|Rispondi in italiano.
ja|Japanese|日本語で答えてください。
ka|Georgian|უპასუხე ქართულად.
kk|Kazakh|Қазақша жауап бер.
ko|Korean|한국어로 답하세요.
lt|Lithuanian|Atsakyk lietuviškai.
lv|Latvian|Atbildi latviešu valodā.
ms|Malay|Jawab dalam bahasa Melayu.
mt|Maltese|Wieġeb bil-Malti.
nl|Dutch|Antwoord in het Nederlands.
no|Norwegian|Svar på norsk.
pl|Polish|Odpowiedz po polsku.
pt|Portuguese|Responda em português.
ro|Romanian|Răspunde în română.
ru|Russian|Ответь на русском языке.
sk|Slovak|Odpovedz po slovensky.
sl|Slovenian|Odgovori v slovenščini.
sr|Serbian|Одговори на српском.
sv|Swedish|Svara på svenska.
sw|Swahili|Jibu kwa Kiswahili.
ta|Tamil|தமிழில் பதிலளிக்கவும்.
te|Telugu|తెలుగులో సమాధానం ఇవ్వండి.
th|Thai|ตอบเป็นภาษาไทย
tl|Tagalog|Sumagot sa Tagalog.
tr|Turkish|Türkçe cevap ver.
uk|Ukrainian|Відповідай українською.
ur|Urdu|اردو میں جواب دیں۔
vi|Vietnamese|Hãy trả lời bằng tiếng Việt.
zh|Chinese|请用中文回答。
"""
_REQUESTS = {
    code: (f"Answer in {name}.", own)
    for code, name, own in (line.split("|") for line in _LANGUAGES.split("\n") if line)
}


def with_request(prompt: str, language: str, *, native: bool) -> str:
    """Return a prompt that ends by asking for an answer in a language.

    Args:
        prompt: What is asked.
        language: The language of the answer.
        native: Ask in that language, otherwise in English.
    """
    english, own = _REQUESTS[canonical(language)]
    return f"{prompt} {own if native else english}"


def check_requests(languages: list[str]) -> None:
    """Raise if an answer in one of these languages cannot be asked for."""
    unknown = [each for each in languages if canonical(each) not in _REQUESTS]
    if unknown:
        raise ParameterError(
            f"How to ask for an answer in {', '.join(unknown)} is not known; it is for "
            f"{', '.join(_REQUESTS)}. Evaluate only labels of these (labels)."
        )
