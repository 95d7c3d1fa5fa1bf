"""Short texts in several languages, and rows in the public formats, written here."""

ENGLISH = "The committee met on Tuesday and decided that the old bridge should be repaired."
FRENCH = "Le comité s'est réuni mardi et a décidé que le vieux pont devait être réparé."
GERMAN = "Der Ausschuss traf sich am Dienstag und beschloss, die alte Brücke zu reparieren."
RUSSIAN = "Комитет собрался во вторник и решил, что старый мост нужно отремонтировать."
CHINESE = "委员会星期二开会，决定修复这座旧桥，因为很多人每天都要从上面走过。"
JAPANESE = "委員会は火曜日に集まり、古い橋を直すことに決めました。"
KOREAN = "위원회는 화요일에 모여 오래된 다리를 수리하기로 결정했습니다."

BY_LANGUAGE = {
    "en": ENGLISH,
    "fr": FRENCH,
    "de": GERMAN,
    "ru": RUSSIAN,
    "zh": CHINESE,
    "ja": JAPANESE,
}

XCOPA = {
    "premise": "女人退休了。",
    "choice1": "她领了退休金。",
    "choice2": "她还清了抵押贷款。",
    "question": "effect",
    "label": 0,
    "idx": 2,
    "changed": True,
}
XCOPA_ITALIAN = {
    "premise": "Il vaso cadde.",
    "choice1": "Il gatto lo spinse.",
    "choice2": "Era lunedì.",
    "question": "cause",
    "label": 0,
}
XWINOGRAD = {
    "sentence": "The cup did not fit in the bag because _ was too small.",
    "option1": "the cup",
    "option2": "the bag",
    "answer": "2",
}
XNLI = {"premise": "Il pleut", "hypothesis": "il fait beau", "label": 2}
BELEBELE = {
    "flores_passage": "A bridge was built in 1900.",
    "question": "When was it built? ",
    "mc_answer1": "1800",
    "mc_answer2": "1900",
    "mc_answer3": "2000",
    "mc_answer4": "never",
    "correct_answer_num": "2",
}
INCLUDE = {
    "question": "2 + 2",
    "option_a": "3",
    "option_b": "4",
    "option_c": "5",
    "option_d": "6",
    "answer": 1,
}


def by_script(text: str) -> str | None:
    """Tell five languages apart by letters and marks: fast, and certain on the texts above."""
    if any("\u3040" <= c <= "\u30ff" for c in text):
        return "ja"
    if any("\u4e00" <= c <= "\u9fff" for c in text):
        return "zh"
    if any("\u0400" <= c <= "\u04ff" for c in text):
        return "ru"
    if any(c in "éèêà" for c in text):
        return "fr"
    if any(c in "üöäß" for c in text):
        return "de"
    return "en" if any(c.isalpha() for c in text) else None
