"""One token for each argument's beginning in the student's text, in place of two.

" light\n area kitchen" is read and written as " light", "\n area", " kitchen". The text stays the
same, so everything that handles text does; a call of two arguments takes two decoding steps less.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from supertiny.task import Task


def add_key_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task) -> int:
    """Add the task's key tokens to a tokenizer and a model, in place; how many were new.

    A new token's embedding, which is its row of a tied head too, starts as the mean of those of the
    tokens that it stands for.
    """
    texts = sorted(
        {f"\n {tool.word(key)}" for tool in task.tools.values() for key in tool.properties}
    )
    parts = {text: tokenizer.encode(text, add_special_tokens=False) for text in texts}
    new = [text for text, ids in parts.items() if len(ids) > 1]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in new])
    # Some models have more rows than tokens already, for the alignment of their matrices.
    table: Any = model.get_input_embeddings()
    model.resize_token_embeddings(max(len(table.weight), len(tokenizer)), mean_resizing=False)
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for table in tables:
            for text in new:
                place: Any = tokenizer.convert_tokens_to_ids(text)
                table.weight[place] = table.weight[parts[text]].mean(0)
    return len(new)
