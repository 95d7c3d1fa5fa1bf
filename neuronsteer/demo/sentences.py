"""Small grammars of four languages: text to try things on, written here, no download."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

# Every language has the same shape, so that only the words and their order differ. `{who}` and the
# other slots are filled independently; each entry agrees with every other one.
_GRAMMARS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "frame": (
            "{who} {does} {where}.",
            "{when}, {who} {does}.",
            "{who} {does} {when_later} {where}.",
            "I think that {who_low} {does} {where}.",
            "{when}, we see {thing} {where}.",
            "We would like {thing} and {thing}.",
            "There is {thing} {where}, and {who_low} {does}.",
        ),
        "who": (
            "The old teacher", "My little sister", "The tall man", "A young woman", "Our neighbour",
            "The black cat", "Your brother", "The white horse", "His mother", "The good doctor",
        ),
        "does": (
            "sings a song", "reads the newspaper", "drinks cold water", "sleeps very well",
            "works every day", "waits for the train", "buys fresh bread", "writes a long letter",
            "opens the window", "laughs with the children",
        ),
        "where": (
            "in the garden", "at the market", "near the river", "behind the house",
            "in the kitchen", "on the mountain", "in front of the church", "under the tree",
        ),
        "when": ("Today", "In the morning", "Every evening", "On Sunday", "In winter"),
        "when_later": ("today", "in the morning", "every evening", "on Sunday", "in winter"),
        "thing": (
            "a red apple", "the new book", "some warm milk", "a small boat", "the blue door",
            "a green table",
        ),
    },
    "fr": {
        "frame": (
            "{who} {does} {where}.",
            "{when}, {who_low} {does}.",
            "{who} {does} {when_later} {where}.",
            "Je pense que {who_low} {does} {where}.",
            "{when}, nous voyons {thing} {where}.",
            "Nous voudrions {thing} et {thing}.",
            "Il y a {thing} {where}, et {who_low} {does}.",
        ),
        "who": (
            "Le vieux professeur", "Ma petite sœur", "Le grand monsieur", "Une jeune femme",
            "Notre voisin", "Le chat noir", "Ton frère", "Le cheval blanc", "Sa mère",
            "Le bon médecin",
        ),
        "does": (
            "chante une chanson", "lit le journal", "boit de l'eau froide", "dort très bien",
            "travaille chaque jour", "attend le train", "achète du pain frais",
            "écrit une longue lettre", "ouvre la fenêtre", "rit avec les enfants",
        ),
        "where": (
            "dans le jardin", "au marché", "près de la rivière", "derrière la maison",
            "dans la cuisine", "sur la montagne", "devant l'église", "sous l'arbre",
        ),
        "when": ("Aujourd'hui", "Le matin", "Chaque soir", "Le dimanche", "En hiver"),
        "when_later": ("aujourd'hui", "le matin", "chaque soir", "le dimanche", "en hiver"),
        "thing": (
            "une pomme rouge", "le nouveau livre", "du lait chaud", "un petit bateau",
            "la porte bleue", "une table verte",
        ),
    },
    "de": {
        "frame": (
            "{who} {does} {where}.",
            "{when} {does_first} {who_low}.",
            "{who} {does} {when_later} {where}.",
            "Ich glaube, {who_low} {does} {where}.",
            "{when} sehen wir {thing} {where}.",
            "Wir möchten {thing} und {thing}.",
            "Es gibt {thing} {where}, und {who_low} {does}.",
        ),
        "who": (
            "Der alte Lehrer", "Meine kleine Schwester", "Der große Mann", "Eine junge Frau",
            "Unser Nachbar", "Die schwarze Katze", "Dein Bruder", "Das weiße Pferd", "Seine Mutter",
            "Der gute Arzt",
        ),
        "does": (
            "singt ein Lied", "liest die Zeitung", "trinkt kaltes Wasser", "schläft sehr gut",
            "arbeitet jeden Tag", "wartet auf den Zug", "kauft frisches Brot",
            "schreibt einen langen Brief", "öffnet das Fenster", "lacht mit den Kindern",
        ),
        "does_first": ("singt", "liest", "arbeitet", "schläft", "lacht", "wartet"),
        "where": (
            "im Garten", "auf dem Markt", "am Fluss", "hinter dem Haus", "in der Küche",
            "auf dem Berg", "vor der Kirche", "unter dem Baum",
        ),
        "when": ("Heute", "Am Morgen", "Jeden Abend", "Am Sonntag", "Im Winter"),
        "when_later": ("heute", "am Morgen", "jeden Abend", "am Sonntag", "im Winter"),
        "thing": (
            "einen roten Apfel", "das neue Buch", "warme Milch", "ein kleines Boot",
            "die blaue Tür", "einen grünen Tisch",
        ),
    },
    "es": {
        "frame": (
            "{who} {does} {where}.",
            "{when}, {who_low} {does}.",
            "{who} {does} {when_later} {where}.",
            "Creo que {who_low} {does} {where}.",
            "{when}, vemos {thing} {where}.",
            "Quisiéramos {thing} y {thing}.",
            "Hay {thing} {where}, y {who_low} {does}.",
        ),
        "who": (
            "El viejo maestro", "Mi hermana pequeña", "El hombre alto", "Una mujer joven",
            "Nuestro vecino", "El gato negro", "Tu hermano", "El caballo blanco", "Su madre",
            "El buen doctor",
        ),
        "does": (
            "canta una canción", "lee el periódico", "bebe agua fría", "duerme muy bien",
            "trabaja todos los días", "espera el tren", "compra pan fresco",
            "escribe una carta larga", "abre la ventana", "ríe con los niños",
        ),
        "where": (
            "en el jardín", "en el mercado", "cerca del río", "detrás de la casa", "en la cocina",
            "en la montaña", "delante de la iglesia", "debajo del árbol",
        ),
        "when": ("Hoy", "Por la mañana", "Cada noche", "El domingo", "En invierno"),
        "when_later": ("hoy", "por la mañana", "cada noche", "el domingo", "en invierno"),
        "thing": (
            "una manzana roja", "el libro nuevo", "leche caliente", "un barco pequeño",
            "la puerta azul", "una mesa verde",
        ),
    },
}  # fmt: skip

LANGUAGES = tuple(_GRAMMARS)


def sentence(language: str, rng: random.Random) -> str:
    """Return one random sentence of `language`."""
    grammar = _GRAMMARS[language]
    text = rng.choice(grammar["frame"])
    while "{" in text:
        start, end = text.index("{"), text.index("}")
        slot = text[start + 1 : end]
        words = rng.choice(grammar[slot.removesuffix("_low")])
        # German nouns keep their capital: only the first letter of the phrase is lowered.
        text = text[:start] + (_low(words) if slot.endswith("_low") else words) + text[end + 1 :]
    return text


def texts(language: str, count: int, sentences: int, seed: int) -> list[str]:
    """Return `count` random texts of `sentences` sentences each."""
    rng = random.Random(f"{language} {seed}")
    return [" ".join(sentence(language, rng) for _ in range(sentences)) for _ in range(count)]


def _low(words: str) -> str:
    return words[0].lower() + words[1:]
