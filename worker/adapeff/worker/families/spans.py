"""Extractive question answering: the span of the context that answers a question.

A context that is too long is read in overlapping windows (Devlin et al. 2019's SQuAD recipe). In training a window that
does not contain the whole answer points at the first token. At test the best spans of all windows compete by the sum of
their start and end logits; spans are inside the context and no longer than `max_answer_tokens`.

Where a task asks whether there is an answer at all (SQuAD 2.0), the sum of the first token's two logits, the lowest of
all windows, scores no answer. No answer is given where it beats the best span by more than a threshold, which is chosen
on validation data for the best F1 (Devlin et al. 2019, section 4.3).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.specs.job import Training
from adapeff.worker.families.base import Family, Metrics
from adapeff.worker.families.span_rows import Answer, QuestionExample, has_no_answer, read_question
from adapeff.worker.metrics.squad import NONE, SQUAD_F1

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapeff.worker.families.drafts import Table
    from adapeff.worker.families.encoding import Batch, Encoded
    from adapeff.worker.families.rows import Columns, RowForm, RowReader

N_BEST = 20
"""Spans kept of each window, and of all windows together (as in the SQuAD recipe)."""
MAX_QUESTION_TOKENS = 64
"""A question is cut to this, and to a third of `max_length` (the SQuAD recipe's max_query_length)."""


class QuestionAnswering(Family):
    """Two logits for each token: that the answer starts, and that it ends there."""

    name = "question_answering"
    summary = "a span of the context, or none"
    pipeline_tag = "question-answering"
    example = QuestionExample
    target = "answers"
    target_column = "answers"
    group_role = "context"
    default_max_length = 384  # SQuAD's (Devlin et al. 2019)

    @classmethod
    def needed_columns(cls, columns: Columns) -> dict[str, str | tuple[str, ...] | None]:
        """A question, its context, and answers in SQuAD's form or in two columns."""
        split = columns.answer_text is not None
        answers = {"answer_text": columns.answer_text, "answer_start": columns.answer_start}
        return {
            "question": columns.question,
            "context": columns.context,
            **(answers if split else {"answers": columns.answers}),
        }

    @classmethod
    def read_row(cls, reader: RowReader, row: Mapping[str, Any], name: str, where: str) -> QuestionExample | None:
        """Read a question and check that its answers are at their positions in the context."""
        return read_question(reader, row, name, where)

    @classmethod
    def options(cls, form: RowForm) -> dict[str, Any]:
        """Whether "no answer" may be predicted."""
        return {"may_have_no_answer": True} if form.unanswerable == "predict" else {}

    @classmethod
    def default_metrics(cls, labels: Sequence[str], options: Mapping[str, Any]) -> Metrics:
        """SQuAD 1.1's scores, or those of SQuAD 2.0."""
        of_some = ("has_answer_f1", "has_answer_exact", "no_answer_accuracy")
        return "squad_f1", ("exact_match", *(of_some if options.get("may_have_no_answer") else ()))

    @classmethod
    def texts(cls, example: QuestionExample) -> list[str]:
        """The context and the question."""
        return [example.context, example.question]

    @classmethod
    def counted(cls, labels: Sequence[str], example: QuestionExample) -> list[str]:
        """The number of answers."""
        return [f"{len(example.answers)} answer(s)"]

    @classmethod
    def draft(cls, table: Table) -> dict[str, Any] | None:
        """Columns named after a question and a context."""
        by_role = table.by_role
        if not by_role["question"] or not by_role["context"]:
            return None
        answers = ("answers",) if by_role["answers"] else ("answer_text", "answer_start")
        column = str(by_role["answers"] or by_role["answer_text"])
        predict = any(has_no_answer(value) for value in table.values(column))
        return {
            "columns": table.named("question", "context", *answers),
            **({"unanswerable": "predict"} if predict else {}),
        }

    def __init__(self, labels: Sequence[str], training: Training, *, may_have_no_answer: bool = False) -> None:
        super().__init__(labels, training)
        self.stride = training.doc_stride or self.max_length // 3
        self.max_answer_tokens = training.max_answer_tokens
        self.question_tokens = min(MAX_QUESTION_TOKENS, self.max_length // 3)
        self.null_threshold: float | None = 0.0 if may_have_no_answer else None
        """By how much no answer must beat the best span, 0 until it is chosen; None: every question has an answer."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The stride too."""
        return {**super().preprocessing, "stride": self.stride}

    @property
    def chooses(self) -> bool:
        """The threshold of no answer."""
        return self.null_threshold is not None

    def encode_part(self, examples: Sequence[QuestionExample], tokenizer: Any) -> Encoded:
        """Windows of question and context; `start_char` and `end_char` are set at the context's tokens, else -100."""
        from adapeff.worker.families.encoding import IGNORED, OF_EXAMPLE, Rows, paddings

        if not getattr(tokenizer, "is_fast", False):
            raise ModelError("question answering needs a tokenizer that knows the positions of its tokens (a fast one)")
        room = self.max_length - self.question_tokens - tokenizer.num_special_tokens_to_add(pair=True)
        if self.stride >= room:
            raise SpecError(
                f"doc_stride is {self.stride}, but windows of max_length {self.max_length} leave {room} tokens of "
                "context next to a question; set doc_stride lower or max_length higher"
            )
        columns = tokenizer(
            self._cut_questions([example.question.strip() for example in examples], tokenizer),
            [example.context for example in examples],
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        of_example = columns.pop("overflow_to_sample_mapping")
        offsets = columns.pop("offset_mapping")
        rows = Rows(paddings(columns, tokenizer), token_targets={"start_char": [], "end_char": []})
        rows.inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        spans = []
        for at, example in enumerate(of_example):
            part = columns.sequence_ids(at)
            starts = [start if side == 1 else IGNORED for (start, _), side in zip(offsets[at], part, strict=True)]
            ends = [end if side == 1 else IGNORED for (_, end), side in zip(offsets[at], part, strict=True)]
            rows.token_targets["start_char"].append(starts)
            rows.token_targets["end_char"].append(ends)
            spans.append(_token_span(examples[example].answers, part, starts, ends))
        return rows.encoded({"span": spans, OF_EXAMPLE: of_example})

    def _cut_questions(self, questions: list[str], tokenizer: Any) -> list[str]:
        columns = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
        most = self.question_tokens
        return [
            question[: offsets[most - 1][1]] if len(offsets) > most else question
            for question, offsets in zip(questions, columns["offset_mapping"], strict=True)
        ]

    def make_head(self, hidden_size: int) -> nn.Module:
        """Linear on every token, start and end."""
        from adapeff.worker.families.heads import TokenHead

        return TokenHead(hidden_size, 2, self.head_dropout)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean of both cross entropies over the tokens of a window; logits are rows x length x 2."""
        from torch.nn import functional

        padded = (batch.inputs["attention_mask"] == 0)[..., None]
        logits = logits.masked_fill(padded, float("-inf"))
        span = batch.targets["span"]
        start = functional.cross_entropy(logits[..., 0], span[:, 0])
        return (start + functional.cross_entropy(logits[..., 1], span[:, 1])) / 2

    def read(self, logits: Tensor, batch: Batch) -> list[Any]:
        """The best spans of each window as (score, first character, character after the last); no answer at -1, -1."""
        from torch.nn import functional

        from adapeff.worker.families.encoding import IGNORED

        outside = batch.targets["start_char"] == IGNORED
        starts = logits[..., 0].masked_fill(outside, float("-inf"))
        ends = logits[..., 1].masked_fill(outside, float("-inf"))
        width = min(self.max_answer_tokens, logits.shape[1])
        # scores[row, i, k]: the span from token i to token i + k
        ahead = functional.pad(ends, (0, width - 1), value=float("-inf")).unfold(1, width, 1)
        scores = (starts[..., None] + ahead).flatten(1)
        best = scores.topk(min(N_BEST, scores.shape[1]), dim=1)
        first = best.indices // width
        last = (first + best.indices % width).clamp(max=logits.shape[1] - 1)
        columns = (best.values, batch.targets["start_char"].gather(1, first), batch.targets["end_char"].gather(1, last))
        found = [
            [span for span in zip(*row, strict=True) if span[0] > -math.inf]
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
        if self.null_threshold is not None:
            for spans, none in zip(found, logits[:, 0].sum(dim=-1).tolist(), strict=True):
                spans.append((none, *_NOWHERE))
        return found

    def answers(
        self, examples: Sequence[QuestionExample], data: Encoded, readings: Sequence[Any]
    ) -> list[tuple[Any, float]]:
        """The text of the best span over all windows, and its share among the best distinct texts."""
        return [
            _best(example.context, spans, self.null_threshold)
            for example, spans in zip(examples, _by_example(examples, data, readings), strict=True)
        ]

    def choose(self, examples: Sequence[QuestionExample], data: Encoded, readings: Sequence[Any]) -> dict[str, float]:
        """Set the threshold that gives these examples the best F1: the middle between two neighbouring margins."""
        if self.null_threshold is None:
            return {}
        margins = []
        for example, spans in zip(examples, _by_example(examples, data, readings), strict=True):
            text, _ = _best(example.context, spans, math.inf)
            gold = self.gold(example)
            of_span, of_none = (_f1(gold, answer) for answer in (text, NONE))
            margins.append((_margin(spans), of_none - of_span))
        margins.sort(reverse=True)
        ordered = [math.inf, *(margin for margin, _ in margins), -math.inf]
        # a threshold between the first `count` margins and the others gives these questions no answer, and no others
        gains = [0.0, *accumulate(gain for _, gain in margins)]
        counts = [count for count in range(len(gains)) if ordered[count] > ordered[count + 1]]
        best = max(counts, key=gains.__getitem__)
        above, below = ordered[best], ordered[best + 1]
        self.null_threshold = (min(above, below + 2) + max(below, above - 2)) / 2 if above > below else above
        return {"null_threshold": self.null_threshold}

    def gold(self, example: QuestionExample) -> tuple[str, ...]:
        """The texts of all right answers."""
        return tuple(answer.text for answer in example.answers)

    def trivial_answers(self, examples: Sequence[QuestionExample]) -> Iterator[list[Any]]:
        """The first words of every context, and the whole of it; none, where that may be the answer."""
        if self.null_threshold is not None:
            yield [NONE] * len(examples)
        for words in (1, 2, 3, 5, 10, 20):
            yield [" ".join(example.context.split()[:words]) for example in examples]
        yield [example.context for example in examples]


def _token_span(
    answers: Sequence[Answer], part: Sequence[int | None], starts: Sequence[int], ends: Sequence[int]
) -> tuple[int, int]:
    """First and last token of the first answer in a window; (0, 0) where the window does not contain all of it."""
    if not answers:
        return 0, 0
    text, begin = answers[0]
    begin += len(text) - len(text.lstrip())
    end = begin + len(text.strip())
    first = part.index(1) if 1 in part else 0
    after = first + sum(side == 1 for side in part)
    if first == after or starts[first] > begin or ends[after - 1] < end:
        return 0, 0
    at_start = bisect.bisect_right(starts, begin, first, after) - 1
    at_end = bisect.bisect_left(ends, end, first, after)
    return at_start, max(at_start, at_end)


_NOWHERE = (-1, -1)


def _by_example(examples: Sequence[Any], data: Encoded, readings: Sequence[Any]) -> list[list[tuple[float, int, int]]]:
    """The spans of all windows of each example."""
    from adapeff.worker.families.encoding import OF_EXAMPLE

    found: list[list[tuple[float, int, int]]] = [[] for _ in examples]
    for example, spans in zip(data.item_targets[OF_EXAMPLE].tolist(), readings, strict=True):
        found[example] += spans
    return found


def _margin(spans: Sequence[tuple[float, int, int]]) -> float:
    """How far no answer, by the window that is surest of one, beats the best span."""
    nothing = min((score for score, *place in spans if tuple(place) == _NOWHERE), default=-math.inf)
    best = max((score for score, *place in spans if tuple(place) != _NOWHERE), default=-math.inf)
    return nothing - best if best > -math.inf else math.inf


def _f1(golds: Sequence[str], answer: str) -> float:
    return SQUAD_F1.compute([golds], [answer])


def _best(
    context: str, spans: Sequence[tuple[float, int, int]], null_threshold: float | None = None
) -> tuple[str, float]:
    """The best span's text with its softmax over the best distinct texts; of equal ones the earliest.

    Args:
        null_threshold: how far no answer must win by to be the answer; None: there is always one.
    """
    from torch import tensor

    ranked: dict[str, float] = {}
    real = [span for span in spans if span[1:] != _NOWHERE]
    for score, start, end in sorted(real, key=lambda span: (-span[0], span[1], span[2])):
        ranked.setdefault(context[start:end].strip(), score)
        if len(ranked) == N_BEST:
            break
    if null_threshold is not None and (margin := _margin(spans)) > null_threshold:
        return NONE, float(tensor(margin - null_threshold).sigmoid())
    if not ranked:
        return NONE, 0.0
    scores = tensor(list(ranked.values()))
    return next(iter(ranked)), float(scores.softmax(dim=0)[0])
