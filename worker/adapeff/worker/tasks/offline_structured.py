"""Generated paraphrases, named entities, questions with answers, and choices."""

from __future__ import annotations

import random
from abc import abstractmethod
from functools import cached_property
from typing import Any

from adapeff.service.plugins.catalog import get_metric
from adapeff.worker.families.choices import ChoiceExample, MultipleChoice
from adapeff.worker.families.span_rows import Answer, QuestionExample
from adapeff.worker.families.spans import QuestionAnswering
from adapeff.worker.families.tokens import TaggedExample, TokenClassification
from adapeff.worker.tasks.offline import ACTS, AGENTS, PLACES, OfflineClassification, OfflineTask, drawn_from

AND = {"en": "and", "de": "und", "es": "y", "fr": "et"}

_FIRST_NAMES = ("Anna", "Pedro", "Sofia", "Martin", "Elena", "Lukas", "Clara", "Hugo", "Nadia")
_SURNAMES = ("Weber", "Garcia", "Novak", "Laurent", "Rossi", "Keller", "Moreau", "Lindberg", "Castro")
_CITIES = {
    "en": ("Vienna", "Geneva", "Lisbon", "Warsaw", "Cologne", "Naples", "Athens", "Prague", "Brussels"),
    "de": ("Wien", "Genf", "Lissabon", "Warschau", "Köln", "Neapel", "Athen", "Prag", "Brüssel"),
    "es": ("Viena", "Ginebra", "Lisboa", "Varsovia", "Colonia", "Nápoles", "Atenas", "Praga", "Bruselas"),
    "fr": ("Vienne", "Genève", "Lisbonne", "Varsovie", "Cologne", "Naples", "Athènes", "Prague", "Bruxelles"),
}
_COMPANIES = ("Altona", "Veritas", "Nordica", "Solaris", "Meridian", "Kronos", "Zenith", "Optima", "Fortuna")
_COMPANY_KINDS = ("Bank", "Motors", "Media")
_AMBIGUOUS = ("Jordan", "Lincoln", "Austin", "Ford", "Madison", "Orlando", "Chelsea", "Santiago", "Valencia")
"""Names of people, places and firms alike: only the sentence tells which."""
_SENTENCES = {
    "en": (
        "PER lives in LOC and works for ORG .",
        "ORG has opened an office in LOC .",
        "yesterday PER met PER in LOC .",
        "PER has left ORG after ten years .",
        "the director of ORG is PER .",
        "nothing happened on that day .",
    ),
    "de": (
        "PER wohnt in LOC und arbeitet bei ORG .",
        "ORG hat ein Büro in LOC eröffnet .",
        "gestern traf PER auf PER in LOC .",
        "PER hat ORG nach zehn Jahren verlassen .",
        "der Direktor von ORG ist PER .",
        "an diesem Tag geschah nichts .",
    ),
    "es": (
        "PER vive en LOC y trabaja para ORG .",
        "ORG ha abierto una oficina en LOC .",
        "ayer PER encontró a PER en LOC .",
        "PER ha dejado ORG después de diez años .",
        "el director de ORG es PER .",
        "aquel día no pasó nada .",
    ),
    "fr": (
        "PER habite à LOC et travaille pour ORG .",
        "ORG a ouvert un bureau à LOC .",
        "hier PER a rencontré PER à LOC .",
        "PER a quitté ORG après dix ans .",
        "le directeur de ORG est PER .",
        "ce jour-là rien ne se passa .",
    ),
}
_KINDS = ("PER", "LOC", "ORG")

_WHERE = {"en": "where is {} ?", "de": "wo ist {} ?", "es": "¿ dónde está {} ?", "fr": "où est {} ?"}
_WHO = {"en": "who is {} ?", "de": "wer ist {} ?", "es": "¿ quién está {} ?", "fr": "qui est {} ?"}

_CAUSES = {
    "en": ("it rained all day", "the glass fell on the floor", "the child was very tired",
           "the man had forgotten his key", "the sun was very hot", "the dog was hungry", "the woman missed the bus",
           "the boy told a joke", "the lamp was broken", "the girl studied a lot", "the wind was very strong",
           "the shop was closed"),
    "de": ("es regnete den ganzen Tag", "das Glas fiel auf den Boden", "das Kind war sehr müde",
           "der Mann hatte seinen Schlüssel vergessen", "die Sonne war sehr heiß", "der Hund hatte Hunger",
           "die Frau verpasste den Bus", "der Junge erzählte einen Witz", "die Lampe war kaputt",
           "das Mädchen lernte viel", "der Wind war sehr stark", "der Laden war geschlossen"),
    "es": ("llovió todo el día", "el vaso cayó al suelo", "el niño estaba muy cansado",
           "el hombre había olvidado su llave", "el sol calentaba mucho", "el perro tenía hambre",
           "la mujer perdió el autobús", "el chico contó un chiste", "la lámpara estaba rota",
           "la chica estudió mucho", "el viento era muy fuerte", "la tienda estaba cerrada"),
    "fr": ("il a plu toute la journée", "le verre est tombé par terre", "l'enfant était très fatigué",
           "l'homme avait oublié sa clé", "le soleil était très chaud", "le chien avait faim",
           "la femme a manqué le bus", "le garçon a raconté une blague", "la lampe était cassée",
           "la fille a beaucoup étudié", "le vent était très fort", "le magasin était fermé"),
}  # fmt: skip
_EFFECTS = {
    "en": ("the street was wet", "the glass broke", "the child went to bed early", "the man could not open the door",
           "the ice melted", "the dog ate everything", "the woman came too late", "everybody laughed",
           "the room was dark", "the girl passed the test", "the tree fell down", "nobody could buy bread"),
    "de": ("die Straße war nass", "das Glas zerbrach", "das Kind ging früh ins Bett",
           "der Mann konnte die Tür nicht öffnen", "das Eis schmolz", "der Hund fraß alles auf",
           "die Frau kam zu spät", "alle lachten", "das Zimmer war dunkel", "das Mädchen bestand die Prüfung",
           "der Baum stürzte um", "niemand konnte Brot kaufen"),
    "es": ("la calle estaba mojada", "el vaso se rompió", "el niño se acostó temprano",
           "el hombre no pudo abrir la puerta", "el hielo se derritió", "el perro se lo comió todo",
           "la mujer llegó tarde", "todos se rieron", "la habitación estaba oscura", "la chica aprobó el examen",
           "el árbol se cayó", "nadie pudo comprar pan"),
    "fr": ("la rue était mouillée", "le verre s'est cassé", "l'enfant s'est couché tôt",
           "l'homme n'a pas pu ouvrir la porte", "la glace a fondu", "le chien a tout mangé",
           "la femme est arrivée en retard", "tout le monde a ri", "la chambre était sombre",
           "la fille a réussi l'examen", "l'arbre est tombé", "personne n'a pu acheter du pain"),
}  # fmt: skip
_ASKED = {
    "en": ("what was the cause ?", "what happened then ?"),
    "de": ("was war die Ursache ?", "was geschah dann ?"),
    "es": ("¿ cuál fue la causa ?", "¿ qué pasó entonces ?"),
    "fr": ("quelle était la cause ?", "que s'est-il passé ensuite ?"),
}


class OfflineParaphrase(OfflineClassification):
    """Two clauses, and the two again: the same facts in another order, or other facts in the same words when hard."""

    name: str = "offline_paraphrase"
    title: str = "Generated paraphrases, hard ones with the same words throughout, tested in four languages"
    labels: tuple[str, ...] = ("different", "paraphrase")

    def _speak(self, draw: random.Random, label: int, language: str, *, held_out: bool) -> tuple[str, str]:
        agents = draw.sample(range(*drawn_from(len(AGENTS[language]), held_out=held_out)), 2)
        acts = draw.sample(range(len(ACTS[language])), 2)
        places = draw.sample(range(len(PLACES[language])), 3)
        hard, swapped = draw.random() < self.difficulty, draw.random() < 0.5

        def clause(who: int, where: int) -> str:
            return f"{AGENTS[language][agents[who]]} {ACTS[language][acts[who]]} {PLACES[language][places[where]]}"

        there = (0, 1) if label else (1, 0) if hard else (0, 2)
        first = [clause(0, 0), clause(1, 1)]
        second = [clause(0, there[0]), clause(1, there[1])]
        joined = f" {AND[language]} "
        return f"{joined.join(first)} .", f"{joined.join(reversed(second) if swapped else second)} ."


class OfflineNER(OfflineTask):
    """People, places and firms; hard ones have names that could be any. The noise takes another type."""

    name: str = "offline_ner"
    title: str = "Generated named entities, trained in English, tested in four languages"
    family: str = TokenClassification.name
    labels: tuple[str, ...] = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    metric: str = "entity_f1"
    further_metrics: tuple[str, ...] = ("entity_precision", "entity_recall", "token_accuracy")

    def _make(
        self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool
    ) -> TaggedExample:
        tokens: list[str] = []
        tags: list[int] = []
        hard = draw.random() < self.difficulty
        for word in _SENTENCES[language][draw.randrange(len(_SENTENCES[language]))].split():
            if word not in _KINDS:
                tokens.append(word)
                tags.append(0)
                continue
            kind = _KINDS.index(word)
            words = self._name(draw, kind, language, hard=hard, held_out=held_out)
            if flip.random() < self.noise:
                kind = (kind + flip.randrange(1, 3)) % 3
            tokens += words
            tags += [1 + 2 * kind, *[2 + 2 * kind] * (len(words) - 1)]
        return TaggedExample(name, tuple(tokens), tuple(tags))

    def _name(self, draw: random.Random, kind: int, language: str, *, hard: bool, held_out: bool) -> list[str]:
        first, second = (draw.randrange(*drawn_from(9, held_out=held_out)) for _ in range(2))
        long = draw.random() < 0.5
        if hard:
            return [_AMBIGUOUS[first]]
        if _KINDS[kind] == "PER":
            return [_FIRST_NAMES[first], _SURNAMES[second]] if long else [_SURNAMES[second]]
        if _KINDS[kind] == "LOC":
            return [_CITIES[language][first]]
        return [_COMPANIES[first], _COMPANY_KINDS[second % 3]] if long else [_COMPANIES[first]]


class OfflineMeasuredTask(OfflineTask):
    """A generated task whose score ceiling is measured: a noisy answer may still be partly correct."""

    def ceiling(self) -> float:
        """What the correct answers score against the noisy ones, on the source language's test split."""
        return self._ceiling

    @cached_property
    def _ceiling(self) -> float:
        clean = self.model_copy(update={"noise": 0.0}).examples("test", self.source_language, None)
        noisy = self.examples("test", self.source_language, None)
        correct = [self._answer(example) for example in clean]
        return get_metric(self.metric).compute([self._gold(example) for example in noisy], correct)

    @abstractmethod
    def _gold(self, example: Any) -> Any:
        """An example's target, in the form that metrics take."""

    @abstractmethod
    def _answer(self, example: Any) -> Any:
        """The answer of a perfect reader to an example, in the form that metrics take."""


class OfflineQA(OfflineMeasuredTask):
    """Who is where, of several: hard ones have more sentences. The noise takes another sentence's answer."""

    name: str = "offline_qa"
    title: str = "Generated questions with their answers in a text, trained in English, tested in four languages"
    family: str = QuestionAnswering.name
    metric: str = "squad_f1"
    further_metrics: tuple[str, ...] = ("exact_match",)

    def _make(
        self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool
    ) -> QuestionExample:
        example, other = self._both(name, draw, language, held_out=held_out)
        return example._replace(answers=(other,)) if flip.random() < self.noise else example

    def _both(self, name: str, draw: random.Random, language: str, *, held_out: bool) -> tuple[QuestionExample, Answer]:
        """The example with its right answer, and the wrong one that noise would take."""
        size = 4 if draw.random() < self.difficulty else 2
        agents = draw.sample(range(*drawn_from(len(AGENTS[language]), held_out=held_out)), size)
        acts = draw.sample(range(len(ACTS[language])), size)
        places = draw.sample(range(len(PLACES[language])), size)
        asked, other = draw.sample(range(size), 2)
        for_place = draw.random() < 0.5
        context, answers = "", []
        for agent, act, place in zip(agents, acts, places, strict=True):
            who, where = AGENTS[language][agent], PLACES[language][place]
            before = f"{who} {ACTS[language][act]} "
            start = len(context) + (len(before) if for_place else 0)
            answers.append(Answer(where if for_place else who, start))
            context += f"{before}{where} . "
        about = AGENTS[language][agents[asked]] if for_place else PLACES[language][places[asked]]
        question = (_WHERE if for_place else _WHO)[language].format(about)
        return QuestionExample(name, question, context.strip(), (answers[asked],)), answers[other]

    def _gold(self, example: QuestionExample) -> tuple[str, ...]:
        return tuple(answer.text for answer in example.answers)

    def _answer(self, example: QuestionExample) -> str:
        return example.answers[0].text


class OfflineChoice(OfflineTask):
    """Cause and effect, two to four choices: the hard ones have four. The noise takes another choice."""

    name: str = "offline_choice"
    title: str = "Generated causes and effects with two or four choices, trained in English, tested in four languages"
    family: str = MultipleChoice.name

    def _make(
        self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool
    ) -> ChoiceExample:
        size = 4 if draw.random() < self.difficulty else 2
        forwards = draw.random() < 0.5
        pairs = draw.sample(range(*drawn_from(len(_CAUSES[language]), held_out=held_out)), size)
        label = draw.randrange(size)
        given, choices_of = (_CAUSES, _EFFECTS) if forwards else (_EFFECTS, _CAUSES)
        question = _ASKED[language][forwards]
        choices = tuple(f"{question} {choices_of[language][pair]}" for pair in pairs)
        premise = f"{given[language][pairs[label]]} ."
        if flip.random() < self.noise:
            label = (label + flip.randrange(1, size)) % size
        return ChoiceExample(name, premise, choices, label)


STRUCTURED_TASKS = (OfflineParaphrase(), OfflineNER(), OfflineQA(), OfflineChoice())
