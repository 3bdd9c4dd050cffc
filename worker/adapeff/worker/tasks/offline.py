"""Data the project generates itself, so that a machine without the hub has a real job with a known ceiling.

Grammar and lexicons are written here, in four languages that share one structure: the same concepts, other words. A
sentence is drawn as concepts first and spoken second, so the label never depends on the language. Everything follows
from the parameters and `data_seed`. With a share `noise` of the labels replaced by another one (in every split), nobody
who has not seen the noise can expect more than `1 - noise` correct: that is the ceiling.

Test vocabulary is held out: the last third of each list of content words appears in validation and test alone, so a
model must know words it was not trained on (which a pre-trained one does).
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from adapeff.service.plugins.contracts import DataIdentity, Split, Task
from adapeff.service.specs.job import canonical_json
from adapeff.worker.families.sequences import Example, SequenceClassification

GENERATOR_VERSION = 1
LANGUAGES = ("en", "de", "es", "fr")

_SUBJECTS = {
    "en": (
        "the film",
        "the concert",
        "the hotel",
        "the book",
        "the meal",
        "the museum",
        "the trip",
        "the game",
        "the course",
    ),
    "de": (
        "der Film",
        "das Konzert",
        "das Hotel",
        "das Buch",
        "das Essen",
        "das Museum",
        "der Ausflug",
        "das Spiel",
        "der Kurs",
    ),
    "es": (
        "el cine",
        "el concierto",
        "el hotel",
        "el libro",
        "el plato",
        "el museo",
        "el viaje",
        "el juego",
        "el curso",
    ),
    "fr": ("le film", "le concert", "le hôtel", "le livre", "le repas", "le musée", "le voyage", "le jeu", "le cours"),
}
_GOOD = {
    "en": (
        "wonderful",
        "charming",
        "brilliant",
        "delightful",
        "perfect",
        "excellent",
        "superb",
        "fascinating",
        "lovely",
    ),
    "de": (
        "wunderbar",
        "charmant",
        "brillant",
        "entzückend",
        "perfekt",
        "exzellent",
        "hervorragend",
        "faszinierend",
        "schön",
    ),
    "es": (
        "maravilloso",
        "encantador",
        "brillante",
        "delicioso",
        "perfecto",
        "excelente",
        "soberbio",
        "fascinante",
        "bonito",
    ),
    "fr": ("merveilleux", "charmant", "brillant", "délicieux", "parfait", "excellent", "superbe", "fascinant", "joli"),
}
_BAD = {
    "en": ("terrible", "boring", "awful", "disappointing", "miserable", "horrible", "dreadful", "tedious", "ugly"),
    "de": (
        "schrecklich",
        "langweilig",
        "furchtbar",
        "enttäuschend",
        "miserabel",
        "grauenhaft",
        "entsetzlich",
        "öde",
        "hässlich",
    ),
    "es": ("terrible", "aburrido", "espantoso", "decepcionante", "miserable", "horrible", "pésimo", "tedioso", "feo"),
    "fr": (
        "terrible",
        "ennuyeux",
        "affreux",
        "décevant",
        "misérable",
        "horrible",
        "épouvantable",
        "fastidieux",
        "laid",
    ),
}
_CLAIM = {"en": "{s} was {a}", "de": "{s} war {a}", "es": "{s} fue {a}", "fr": "{s} était {a}"}
_DENIAL = {"en": "{s} was not {a}", "de": "{s} war nicht {a}", "es": "{s} no fue {a}", "fr": "{s} n'était pas {a}"}
_CONCESSION = {
    "en": "although {x} , {y} .",
    "de": "{x} , aber {y} .",
    "es": "aunque {x} , {y} .",
    "fr": "{x} , mais {y} .",
}
_PLAIN = dict.fromkeys(LANGUAGES, "{y} .")

AGENTS = {
    "en": (
        "the dog",
        "the teacher",
        "the farmer",
        "the horse",
        "the doctor",
        "the child",
        "the cat",
        "the pilot",
        "the bird",
    ),
    "de": (
        "der Hund",
        "der Lehrer",
        "der Bauer",
        "das Pferd",
        "der Arzt",
        "das Kind",
        "die Katze",
        "der Pilot",
        "der Vogel",
    ),
    "es": (
        "el perro",
        "el maestro",
        "el granjero",
        "el caballo",
        "el doctor",
        "el niño",
        "el gato",
        "el piloto",
        "el pájaro",
    ),
    "fr": (
        "le chien",
        "le professeur",
        "le fermier",
        "le cheval",
        "le docteur",
        "le garçon",
        "le chat",
        "le pilote",
        "le moineau",
    ),
}
IS_ANIMAL = (True, False, False, True, False, False, True, False, True)
KINDS = {
    "en": ("a person", "an animal"),
    "de": ("ein Mensch", "ein Tier"),
    "es": ("una persona", "un animal"),
    "fr": ("une personne", "un animal"),
}
ACTS = {
    "en": ("is sleeping", "is running", "is eating", "is waiting", "is drinking", "is resting"),
    "de": ("schläft", "rennt", "isst", "wartet", "trinkt", "ruht"),
    "es": ("duerme", "corre", "come", "espera", "bebe", "descansa"),
    "fr": ("dort", "court", "mange", "attend", "boit", "se repose"),
}
PLACES = {
    "en": ("in the garden", "in the house", "on the street", "near the river", "in the forest", "at the market"),
    "de": ("im Garten", "im Haus", "auf der Straße", "am Fluss", "im Wald", "auf dem Markt"),
    "es": ("en el jardín", "en la casa", "en la calle", "cerca del río", "en el bosque", "en el mercado"),
    "fr": ("dans le jardin", "dans la maison", "dans la rue", "près de la rivière", "dans la forêt", "au marché"),
}
_NOBODY = {"en": "nobody {v} {p}", "de": "niemand {v} {p}", "es": "nadie {v} {p}", "fr": "personne ne {v} {p}"}
_REASONS = {
    "en": ("because it is late", "after a long day", "with an old friend", "for the first time"),
    "de": ("weil es spät ist", "nach einem langen Tag", "mit einem alten Freund", "zum ersten Mal"),
    "es": ("porque es tarde", "después de un largo día", "con un viejo amigo", "por primera vez"),
    "fr": ("parce qu'il est tard", "après une longue journée", "avec un vieil ami", "pour la première fois"),
}


class OfflineTask(Task):
    """A generated task."""

    parameters: ClassVar[frozenset[str]] = frozenset(
        {"noise", "difficulty", "train_examples", "test_examples", "data_seed"}
    )

    source_language: str = "en"
    languages: tuple[str, ...] = LANGUAGES
    licence: str = "Apache-2.0 (generated by adapeff)"
    noise: float = Field(default=0.05, ge=0, lt=0.5)
    """Share of labels replaced by another one; the ceiling is one minus this."""
    difficulty: float = Field(default=0.5, ge=0, le=1)
    """Share of examples that need more than a look at the words."""
    train_examples: int = Field(default=1200, ge=20, le=1_000_000)
    test_examples: int = Field(default=400, ge=20, le=1_000_000)
    data_seed: int = 0

    def identity(self, languages: Sequence[str], data_root: Path | None) -> DataIdentity:
        """Fingerprint the generator's version and parameters, which determine every example."""
        made_by = {key: getattr(self, key) for key in sorted(self.parameters)}
        text = canonical_json({"generator": GENERATOR_VERSION, "task": self.name, **made_by})
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        tested = hashlib.sha256(f"{text} {canonical_json(sorted(languages))}".encode()).hexdigest()
        return DataIdentity(source="generated", fingerprint=fingerprint, test_fingerprint=tested)

    def examples(self, split: Split, language: str, data_root: Path | None) -> list[Any]:
        """Generate one split; the n-th example means the same in every language."""
        draw = random.Random(f"{GENERATOR_VERSION} {self.name} {split} {self.data_seed}")
        flip = random.Random(f"{GENERATOR_VERSION} {self.name} {split} {self.data_seed} noise")
        size = self.train_examples if split == "train" else self.test_examples
        held_out = split != "train"
        return [self._make(f"{split}-{number}", draw, flip, language, held_out=held_out) for number in range(size)]

    def ceiling(self) -> float:
        """One minus the noise: what a perfect reader expects to score."""
        return 1 - self.noise

    @abstractmethod
    def _make(self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool) -> Any:
        """Make one example, drawing the same number of times whatever the language and the noise."""


class OfflineClassification(OfflineTask):
    """A generated sequence classification task; the noise replaces the label."""

    family: str = SequenceClassification.name
    further_metrics: tuple[str, ...] = ("macro_f1",)

    def _make(self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool) -> Example:
        label = draw.randrange(len(self.labels))
        text, pair = self._speak(draw, label, language, held_out=held_out)
        if flip.random() < self.noise:
            label = (label + flip.randrange(1, len(self.labels))) % len(self.labels)
        return Example(id=name, text=text, text_pair=pair, label=label)

    @abstractmethod
    def _speak(self, draw: random.Random, label: int, language: str, *, held_out: bool) -> tuple[str, str | None]:
        """Say one example in a language, drawing the same number of times whatever the language."""


class OfflineSentiment(OfflineClassification):
    """Is the main clause good or bad? Hard ones deny ("was not boring") or concede ("although ..., ...")."""

    name: str = "offline_sentiment"
    title: str = "Generated sentiment with negation and concession, trained in English, tested in four languages"
    labels: tuple[str, ...] = ("negative", "positive")

    def _speak(self, draw: random.Random, label: int, language: str, *, held_out: bool) -> tuple[str, str | None]:
        main = self._clause(draw, bool(label), language, held_out=held_out, may_deny=True)
        other = self._clause(draw, not label, language, held_out=held_out, may_deny=False)
        form = _CONCESSION if draw.random() < self.difficulty else _PLAIN
        return form[language].format(x=other, y=main), None

    def _clause(self, draw: random.Random, good: bool, language: str, *, held_out: bool, may_deny: bool) -> str:
        denied = draw.random() < self.difficulty / 2 and may_deny
        words = _GOOD if good != denied else _BAD
        subject = _pick(draw, _SUBJECTS[language], held_out=held_out)
        adjective = _pick(draw, words[language], held_out=held_out)
        return (_DENIAL if denied else _CLAIM)[language].format(s=subject, a=adjective)


class OfflineNLI(OfflineClassification):
    """Does the second sentence follow from the first? Hard ones generalise the agent or drop the place."""

    name: str = "offline_nli"
    title: str = "Generated natural language inference, trained in English, tested in four languages"
    labels: tuple[str, ...] = ("entailment", "neutral", "contradiction")

    def _speak(self, draw: random.Random, label: int, language: str, *, held_out: bool) -> tuple[str, str | None]:
        agents, acts, places = AGENTS[language], ACTS[language], PLACES[language]
        agent = draw.randrange(*drawn_from(len(agents), held_out=held_out))
        act, place = draw.randrange(len(acts)), draw.randrange(len(places))
        other_place = (place + draw.randrange(1, len(places))) % len(places)
        reason = draw.randrange(len(_REASONS[language]))
        hard = draw.random() < self.difficulty
        drop_place = draw.random() < 0.5
        premise = f"{agents[agent]} {acts[act]} {places[place]}"
        who = KINDS[language][IS_ANIMAL[agent]] if hard else agents[agent]
        where = "" if hard and drop_place else f" {places[place]}"
        if self.labels[label] == "entailment":
            hypothesis = f"{who} {acts[act]}{where}"
        elif self.labels[label] == "neutral":
            hypothesis = f"{who} {acts[act]}{where} {_REASONS[language][reason]}"
        elif hard:
            hypothesis = _NOBODY[language].format(v=acts[act], p=places[place])
        else:
            hypothesis = f"{agents[agent]} {acts[act]} {places[other_place]}"
        return f"{premise} .", f"{hypothesis} ."


def drawn_from(size: int, *, held_out: bool) -> tuple[int, int]:
    """Which of so many words are drawn: training never sees the last third."""
    seen = size - size // 3
    return (0, size) if held_out else (0, seen)


def _pick(draw: random.Random, words: Sequence[str], *, held_out: bool) -> str:
    return words[draw.randrange(*drawn_from(len(words), held_out=held_out))]
