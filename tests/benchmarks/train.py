"""Row `train`: MusicRec's mix of tasks, from where an example stands in the users' histories to trained weights."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, processors
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from musicrec_kit import training
from musicrec_kit.data.splits import held_out
from musicrec_kit.generation import Generator, tasks
from musicrec_kit.generation.seq2seq import T5
from musicrec_kit.generation.tasks import Spans, TokenStore
from musicrec_kit.ids.vocabulary import PAD
from musicrec_kit.params import GeneratorParams
from tests.benchmarks.harness import Row, Side, device
from tests.benchmarks.worlds import HISTORY, hugging_face, train, world

BATCH = 256
STEPS = 30
PIECES = 32_100  # of T5's vocabulary, which the lineage keeps and adds the tokens of IDs to
VALIDATION_USERS = 512
# of the validation loss, for the two see the same examples in other batches and drop other entries
ABOVE, BELOW = 0.03, 0.1  # ours may be lower: the usual way also has to learn that no piece follows
Texts = list[tuple[str, str]]


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row."""
    made = world(data_root, scale)
    batch = BATCH if data_root is not None or scale == 1.0 else 32
    steps = max(3, round(STEPS * scale))
    params = GeneratorParams(backbone="lineage", steps=steps, batch=batch)  # next per view, joint, align
    start = made.generator(params)
    start.model.to(device())
    store, spans = made.examples(start)
    spans = spans.take(np.random.default_rng(0).permutation(len(spans.prompt))[: steps * batch])
    texts, tokenizer, theirs = written(start, store, spans), sentence_pieces(start), resized(start)
    ours = {name: params.model_copy(update={"precision": name}) for name in ("fp32", "bf16")}
    check = validation(start, made.sequences)
    first = losses(theirs.eval(), start.model.eval(), check)
    assert abs(first[0] - first[1]) < 1e-4, f"not the same weights: validation losses {first}"
    yield Row(
        name="train",
        unit="examples",
        units=len(texts),
        data=f"{made.name}; {steps} steps of {batch}, {np.mean(store.source_widths(spans)):.0f} tokens",
        usual=Side("HF model, strings, 32,100 pieces", lambda: by_strings(theirs, tokenizer, texts, params)),
        ours=[
            Side("fit", lambda: by_places(start, ours["fp32"], store, spans)),
            Side("fit, bf16", lambda: by_places(start, ours["bf16"], store, spans), precision="bf16"),
        ],
        agree=lambda usual, found: agree(usual, found, check),
        targets={"fit": 4.0, "fit, bf16": 8.0},
    )


def written(generator: Generator, store: TokenStore, spans: Spans) -> Texts:
    """Return source and target of every example as the strings that the lineage's data sets hold."""
    names, plan, texts = generator.vocabulary.names, store.on_device(spans), []
    for first in range(0, len(plan), 1024):
        some = plan[first : first + 1024]
        width = int(store.source_widths(spans).max())
        pairs = zip(
            store.sources(some, width).tolist(), store.targets(some, int(some[:, 3].max()) + 1).tolist(), strict=True
        )
        texts += [tuple("".join(names[token] for token in row if token > 1) for row in pair) for pair in pairs]
    return texts


def sentence_pieces(generator: Generator) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer as large as T5's with the tokens of IDs added.

    T5's own pieces are in no package; made-up ones stand for them, since an ID holds none.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((chr(97 + i), -9.0) for i in range(26))]
    pieces += [(f"▁piece{i}", -12.0) for i in range(PIECES - len(pieces))]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    made.add_tokens(list(generator.vocabulary.names[2:]))
    return made


def resized(generator: Generator) -> T5ForConditionalGeneration:
    """Return Hugging Face's T5 with the generator's weights, its rows behind those of the pieces."""
    small, rate = generator.model, generator.params.dropout
    large = T5(PIECES + small.n_tokens - 2, small.shape).initialise(1)
    rows = large.embedding.weight.detach()
    rows[:2], rows[PIECES:] = small.embedding.weight[:2].cpu(), small.embedding.weight[2:].cpu()
    large.load_state_dict({**small.state_dict(), "embedding.weight": rows})
    theirs = hugging_face(large).to(device())
    for part in theirs.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = rate  # of attention
    return theirs


def by_strings(
    start: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, texts: Texts, params: GeneratorParams
) -> nn.Module:
    """Return weights trained as the lineage does: random batches, tokenized as they come, padded to the longest."""
    model = copy.deepcopy(start).train()
    groups = training.parameter_groups(model, params.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=params.lr)

    def collate(batch: Texts) -> dict[str, Tensor]:
        source, target = (
            tokenizer(list(part), padding="longest", return_tensors="pt") for part in zip(*batch, strict=True)
        )
        labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, -100)
        return {"input_ids": source["input_ids"], "attention_mask": source["attention_mask"], "labels": labels}

    loader = DataLoader(
        texts, params.batch, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(0)
    )
    for step, batch in enumerate(loader):
        for group in optimiser.param_groups:
            group["lr"] = params.lr * training.learning_rate(step, len(loader), params.warmup, params.schedule)
        optimiser.zero_grad()
        model(**{name: part.to(device()) for name, part in batch.items()}).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), params.clip)
        optimiser.step()
    return model.eval()


def by_places(start: Generator, params: GeneratorParams, store: TokenStore, spans: Spans) -> nn.Module:
    """Return weights trained by `training.fit` on batches of like length."""
    made = Generator(copy.deepcopy(start.model), start.vocabulary, start.families, params, start.history)
    train(made, tasks.batches(store, spans, params.batch, 0), params.steps)
    return made.model


def validation(generator: Generator, sequences: object) -> list[tuple[Tensor, Tensor]]:
    """Return batches of next items of held-out users."""
    store = generator.store(sequences, generator.tasks("next"))
    examples = held_out(sequences, "valid", HISTORY)
    some = examples.take(np.random.default_rng(1).permutation(len(examples))[:VALIDATION_USERS])
    return [pair for task in generator.tasks("next") for pair in tasks.batches(store, store.spans(task, some), 128)]


def agree(usual: nn.Module, ours: nn.Module, check: list[tuple[Tensor, Tensor]]) -> str:
    """Say what both lose on held-out users, among the tokens that IDs are written with; ours must not lose more."""
    found, theirs = losses(usual, ours, check)
    assert -BELOW < found / theirs - 1 < ABOVE, (theirs, found)
    return f"validation loss {found:.3f} and {theirs:.3f}"


@torch.no_grad()
def losses(usual: nn.Module, ours: nn.Module, check: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return the mean cross-entropy of ours and of the usual way."""
    totals = np.zeros(2)
    for source, target in check:
        start = functional.pad(target, (1, 0))[:, :-1]
        logits = usual(
            input_ids=_theirs(source), attention_mask=(source != PAD).long(), decoder_input_ids=_theirs(start)
        ).logits
        both = torch.cat([logits[..., :2], logits[..., PIECES:]], dim=-1), ours(source, target)
        totals += [
            float(functional.cross_entropy(part.flatten(0, 1), target.flatten(), ignore_index=PAD)) for part in both
        ]
    theirs, found = totals / len(check)
    return found, theirs


def _theirs(tokens: Tensor) -> Tensor:
    """Return our tokens' numbers behind the pieces."""
    return torch.where(tokens > 1, tokens + PIECES - 2, tokens)
